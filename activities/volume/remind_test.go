package volume

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic/fake"

	"thaw/activities/cluster"
)

func TestASidecarIsRemindedOfADeletionThatItForgot(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		deleted  bool
		creating bool
		takes    time.Duration
		reminded bool
	}{
		{name: "a deletion that takes too long", deleted: true, takes: 4 * time.Second, reminded: true},
		{name: "not one that is quick", deleted: true, takes: 2 * time.Second},
		{name: "not while the driver may still cut it", deleted: true, creating: true, takes: time.Hour},
		{name: "not of what is not deleted", takes: time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := &unstructured.Unstructured{}
				o.SetAPIVersion(contentResource.GroupVersion().String())
				o.SetKind("VolumeSnapshotContent")
				o.SetName("content")
				o.SetAnnotations(map[string]string{beingDeleted: "yes"})
				if tt.deleted {
					o.SetDeletionTimestamp(&metav1.Time{Time: time.Now()})
					o.SetFinalizers([]string{"snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"})
				}
				if tt.creating {
					o.SetAnnotations(map[string]string{beingDeleted: "yes", beingCreated[0]: "yes"})
				}
				c := &cluster.Cluster{Dynamic: fake.NewSimpleDynamicClient(runtime.NewScheme(), o)}
				require.NoError(t, reminding(t.Context(), c, contentResource, "content", func() error { time.Sleep(tt.takes); return nil }))
				now, err := c.Dynamic.Resource(contentResource).Get(t.Context(), "content", metav1.GetOptions{})
				require.NoError(t, err)
				_, reminded := now.GetAnnotations()[annotationReminded]
				assert.Equal(t, tt.reminded, reminded)
				assert.Contains(t, now.GetAnnotations(), beingDeleted)
			})
		})
	}
}
