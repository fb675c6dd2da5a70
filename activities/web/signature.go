package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

const headerSignature = "X-Thaw-Signature"

// sign returns the value of X-Thaw-Signature, "t=<unix time>,sha256=<hex>". To
// verify it, a receiver
//
//  1. refuses a time that is more than five minutes off: it is a replay;
//  2. computes the HMAC-SHA256, by the shared key, of the time as it is
//     spelt, a dot, and the raw bytes of the body;
//  3. compares that with sha256 in constant time (hmac.Equal,
//     hmac.compare_digest, crypto.timingSafeEqual).
func sign(key, body []byte, at time.Time) string {
	mac := hmac.New(sha256.New, key)
	_, _ = fmt.Fprintf(mac, "%d.", at.Unix())
	_, _ = mac.Write(body)
	return fmt.Sprintf("t=%d,sha256=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
