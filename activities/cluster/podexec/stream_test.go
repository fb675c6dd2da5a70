package podexec

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
)

// An API server that answers is not one that is away: what it refuses is
// refused, and what it cannot do now is asked again for a while only.
func TestExecThatTheServerAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status metav1.Status
		kind   fault.Kind
	}{
		"forbidden":   {metav1.Status{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "pods \"db\" is forbidden"}, fault.User},
		"no such pod": {metav1.Status{Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: "pods \"db\" not found"}, fault.User},
		"the kubelet": {metav1.Status{Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError, Message: "unable to upgrade connection"}, fault.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			c.status.Kind, c.status.APIVersion, c.status.Status = "Status", "v1", metav1.StatusFailure
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(int(c.status.Code))
				_ = json.NewEncoder(w).Encode(c.status)
			}))
			defer server.Close()
			cl, err := cluster.New(&rest.Config{Host: server.URL}, "default")
			require.NoError(t, err)
			_, err = dial(t.Context(), cl, Where{Namespace: "shop", Pod: "db"}, Command{Args: []string{"true"}})
			require.ErrorContains(t, err, c.status.Message)
			require.Equal(t, c.kind, fault.Of(err))
			var status apierrors.APIStatus
			require.ErrorAs(t, err, &status, "it is known that the server answered")
		})
	}
}
