// Package web is the family of functions that speak HTTP: webhooks, and the
// interfaces of databases that have one. HTTPRequest is one request, signed and
// with an idempotency key. Start with prepare (request.go), then send.go; how
// a receiver verifies a signature is told in signature.go.
package web

import (
	"context"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
)

const family = "web"

// Functions of this family.
func Functions() []function.Function { return []function.Function{httpRequest()} }

type requestArgs struct {
	URL            string            `arg:"url,required" doc:"http or https; no user and password in it: give them as secretHeaders"`
	Method         string            `arg:"method" default:"POST" enum:"GET|HEAD|POST|PUT|PATCH|DELETE" doc:"the method"`
	Headers        map[string]string `arg:"headers" doc:"headers; never a secret"`
	SecretHeaders  map[string]string `arg:"secretHeaders" doc:"headers from secrets of the run: header to secretName/key"`
	Body           string            `arg:"body" doc:"the body, as it is"`
	JSON           any               `arg:"json" doc:"the body as data, in place of body: it is sent as JSON, with its Content-Type"`
	SigningSecret  string            `arg:"signingSecret" doc:"secretName/key that the body is signed with: header X-Thaw-Signature: t=<unix time>,sha256=<hex of the HMAC-SHA256 of \"<unix time>.<body>\">"`
	ExpectedStatus []string          `arg:"expectedStatus" default:"2xx" doc:"status codes that are right, such as 200, or 2xx for all of 200 to 299; where one is a redirect, it is not followed"`
	Timeout        time.Duration     `arg:"timeout" default:"30s" doc:"how long one attempt may take, from connecting to the end of the answer"`
	CABundle       string            `arg:"caBundle" doc:"secretName/key of a PEM bundle of the authorities that the server's certificate is checked against, in place of the system's"`
	Into           map[string]string `arg:"into" doc:"outputs from a JSON answer: output to a dotted path, such as data.items.0.id; the answer is read up to 1 MiB"`
}

// httpRequest is HTTPRequest. Whether a second request does harm is up to the
// receiver, and a function is declared idempotent once for all its methods: so
// it is, by contract. GET, HEAD, PUT and DELETE are by HTTP's own; of a POST
// or PATCH the receiver must honour Idempotency-Key, which is the same in
// every attempt. A blueprint whose receiver does not says so of its phase
// (idempotent: false): then an attempt of unknown outcome is not repeated.
func httpRequest() function.Function {
	return function.Prepared(catalogue.Function{
		Name: "HTTPRequest", Family: family,
		Summary: "Send an HTTP request, such as a webhook. It may be sent again when the outcome of an attempt is unknown (no answer in time), " +
			"always with the same Idempotency-Key header: the receiver must honour it. Where it does not, set idempotent: false on the phase.",
		Outputs:     []catalogue.Output{{Name: "status", Description: "the status code of the answer"}},
		OpenOutputs: true,
		Idempotent:  true,
		Timeout:     10 * time.Minute,
	}, func(ctx context.Context, env *function.Env, a requestArgs) (function.Act, func(), error) {
		r, err := prepare(ctx, env, a)
		if err != nil {
			return nil, nil, err
		}
		return r.send, nil, nil
	})
}
