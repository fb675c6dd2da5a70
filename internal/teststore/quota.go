package teststore

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"

	"thaw/blueprints/templates"
)

// OverQuota is the profile of a Google Cloud Storage that takes so many bytes,
// and then refuses as Google's does. The store of the tests itself answers that
// nothing was found where its disk is full.
func (s *Server) OverQuota(quota int64) templates.Profile {
	s.t.Helper()
	var taken atomic.Int64
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", s.Direct, s.Line.Addr() // the store knows itself by this name
		},
		ModifyResponse: func(res *http.Response) error { // an upload goes on here
			if at := res.Header.Get("Location"); at != "" {
				res.Header.Set("Location", strings.Replace(at, s.Line.Addr(), res.Request.Header.Get("X-Front"), 1))
			}
			return nil
		},
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && taken.Add(max(r.ContentLength, 0)) > quota {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte(`{"error":{"code":403,"message":"The project exceeded its storage quota.","errors":[{"domain":"usageLimits","reason":"quotaExceeded","message":"The project exceeded its storage quota."}]}}`))
			return
		}
		r.Header.Set("X-Front", r.Host)
		proxy.ServeHTTP(w, r)
	}))
	s.t.Cleanup(front.Close)
	p := s.Profile
	p.Location.Endpoint = front.URL
	return p
}
