package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

func TestNames(t *testing.T) {
	answers := map[string]string{
		"/api/v1/namespaces/shop/services/db":    `{"spec": {"clusterIP": "10.213.9.7"}}`,
		"/api/v1/namespaces/shop/services/peers": `{"spec": {"clusterIP": "None"}}`,
		"/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io/service-name%3Dpeers": `{"items": [{"endpoints": [
			{"addresses": ["10.213.8.2"], "hostname": "peers-0", "conditions": {"ready": true}},
			{"addresses": ["10.213.8.3"], "hostname": "peers-1"},
			{"addresses": ["10.213.8.4"], "hostname": "peers-2", "conditions": {"ready": false}}]}]}`,
	}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch a, ok := answers[r.URL.RequestURI()]; {
		case r.URL.Path == "/api/v1/namespaces/shop/services/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case ok:
			_, _ = w.Write([]byte(a))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer api.Close()
	r := &resolver{client: api.Client(), server: api.URL}
	for _, tt := range []struct {
		name  string
		kind  dnsmessage.Type
		code  dnsmessage.RCode
		wants []string
	}{
		{"db.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.213.9.7"}},
		{"DB.Shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.213.9.7"}},
		{"db.shop.svc.cluster.local.", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, nil},
		{"peers.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.213.8.2", "10.213.8.3"}},
		{"peers-1.peers.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeSuccess, []string{"10.213.8.3"}},
		{"peers-2.peers.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"nobody.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
		{"broken.shop.svc.cluster.local.", dnsmessage.TypeA, dnsmessage.RCodeServerFailure, nil},
		{"example.com.", dnsmessage.TypeA, dnsmessage.RCodeNameError, nil},
	} {
		t.Run(tt.kind.String()+" "+tt.name, func(t *testing.T) {
			q := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
				Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(tt.name), Type: tt.kind, Class: dnsmessage.ClassINET}},
			}
			b, err := q.Pack()
			require.NoError(t, err)
			var a dnsmessage.Message
			require.NoError(t, a.Unpack(r.answer(t.Context(), b)))
			require.Equal(t, q.ID, a.ID)
			require.Equal(t, tt.code, a.RCode)
			var got []string
			for _, x := range a.Answers {
				ip := x.Body.(*dnsmessage.AResource).A
				got = append(got, netip.AddrFrom4(ip).String())
			}
			require.Equal(t, tt.wants, got)
		})
	}
}
