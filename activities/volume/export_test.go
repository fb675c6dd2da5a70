package volume

import (
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/activities/cluster/movers"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

func TestWhatCannotBeExportedIsSaidBeforeAnythingIsTouched(t *testing.T) {
	one := map[string]any{"pvc": "data", "namespace": "shop", "snapshot": "s"}
	for what, c := range map[string]struct {
		args     map[string]any
		image    string
		bare     bool // without profile
		nameless bool // without restore point
		says     []string
	}{
		"no profile":       {bare: true, image: "i", says: []string{"no location profile"}},
		"no image":         {says: []string{"no image with the mover", "data.image"}},
		"no restore point": {nameless: true, image: "i", says: []string{"makes no restore point"}},
		"all at once": {image: "i", args: map[string]any{"parallel": 0, "volumes": []any{
			map[string]any{"pvc": "raw", "namespace": "shop", "snapshot": "s", "volumeMode": "Block"},
			map[string]any{"pvc": "uncut", "namespace": "shop"},
		}}, says: []string{"pvc shop/raw is a raw block device", "pvc shop/uncut has no snapshot", "parallel 0"}},
	} {
		t.Run(what, func(t *testing.T) {
			env := functiontest.NewEnv(t, "k")
			if !c.bare {
				env.Profile = &templates.Profile{}
			}
			if !c.nameless {
				env.RestorePoint = plan.RestorePointRef{ID: "point"}
			}
			args := map[string]any{"volumes": []any{one}}
			for k, v := range c.args {
				args[k] = v
			}
			m := &movers.Movers{Cluster: offline, Config: movers.Config{Image: c.image}, Key: func() (string, error) { return "key", nil }}
			_, err := functiontest.Call(t.Context(), t, Functions(offline, m), env, "ExportVolumes", args)
			require.Equal(t, fault.User, fault.Of(err))
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
		})
	}
}

func TestARestoreOfNoVolumeAtATimeIsRefused(t *testing.T) {
	for _, parallel := range []int{0, -1} {
		_, err := functiontest.Call(t.Context(), t, Functions(offline, &movers.Movers{Cluster: offline}), functiontest.NewEnv(t, "k"), "RestoreVolumes", map[string]any{
			"parallel": parallel, "volumes": []any{map[string]any{"pvc": "data", "namespace": "shop", "snapshot": "s", "storageClass": "c", "size": "1Gi"}},
		})
		require.Equal(t, fault.User, fault.Of(err))
		require.ErrorContains(t, err, "it must be more than nothing")
	}
}

// What one of several calls came to is not lost with the others, nor with the
// attempt that made them.
func TestWhatIsDoneIsRememberedForTheNextAttempt(t *testing.T) {
	env := functiontest.NewEnv(t, "k")
	names := []string{"a", "b", "c"}
	run := func(fails string) (called []string, results []*string, err error) {
		results = make([]*string, len(names))
		err = inParallel(&env.Env, 1, len(names), func(i int) string { return names[i] }, func(i int, done *string) (*string, error) {
			if done == nil {
				called = append(called, names[i])
				if names[i] == fails {
					return nil, fault.New(fault.Transient, "the mover was killed")
				}
				text := "did " + names[i]
				done = &text
			}
			results[i] = done
			return done, nil
		})
		return called, results, err
	}
	called, _, err := run("b")
	require.Equal(t, names, called, "one that fails does not keep the others")
	require.EqualError(t, err, "pvc b: the mover was killed")
	require.Equal(t, fault.Transient, fault.Of(err))
	env = env.Again(t, true)
	called, results, err := run("")
	require.NoError(t, err)
	require.Equal(t, []string{"b"}, called)
	for i, r := range results {
		require.Equal(t, "did "+names[i], *r)
	}
}
