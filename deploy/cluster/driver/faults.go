package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Fault is what the driver is told to do wrong, for the volumes whose claim
// matches. Faults live in a file that the driver reads at each call: setting
// and clearing one takes effect at once, and a restarted driver knows them.
type Fault struct {
	ID        int
	Namespace string        `json:",omitempty"` // of the claim, a pattern; empty: any
	Claim     string        `json:",omitempty"` // its name, a pattern; empty: any
	Times     int           `json:",omitempty"` // how often; 0: until cleared
	Ready     time.Duration `json:",omitempty"` // a snapshot is ready so long after its cut
	NotReady  bool          `json:",omitempty"` // a snapshot is never ready
	SlowCut   time.Duration `json:",omitempty"` // CreateSnapshot waits so long before it cuts
	FailCut   bool          `json:",omitempty"` // CreateSnapshot fails before the cut
	HangCut   bool          `json:",omitempty"` // CreateSnapshot does not return, nor cut
	LoseCut   bool          `json:",omitempty"` // CreateSnapshot cuts, and its answer is lost
	FailMake  bool          `json:",omitempty"` // CreateVolume fails
	HangMake  bool          `json:",omitempty"` // CreateVolume does not return
	FailDrop  bool          `json:",omitempty"` // DeleteSnapshot fails
}

func (f Fault) matches(c Claim) bool {
	return match(f.Namespace, c.Namespace) && match(f.Claim, c.Name)
}

func match(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return pattern == "" || (ok && err == nil)
}

// Check says whether the fault's patterns can be understood.
func (f Fault) Check() error {
	for _, p := range []string{f.Namespace, f.Claim} {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("fault's pattern %q: %w", p, err)
		}
	}
	return nil
}

// FaultFile is where faults are kept.
type FaultFile string

// Read returns the faults that are set.
func (f FaultFile) Read() ([]Fault, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read faults: %w", err)
	}
	var faults []Fault
	if err := json.Unmarshal(b, &faults); err != nil {
		return nil, fmt.Errorf("read faults %s: %w", f, err)
	}
	return faults, nil
}

// Update changes the faults; of two at once, one waits.
func (f FaultFile) Update(change func([]Fault) []Fault) error {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	lock, err := os.OpenFile(string(f)+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("set faults: lock %s: %w", lock.Name(), err)
	}
	faults, err := f.Read()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(change(faults), "", "  ")
	if err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	temp := string(f) + ".new"
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	if err := os.Rename(temp, string(f)); err != nil {
		return fmt.Errorf("set faults: %w", err)
	}
	return nil
}

// faults are those that one driver obeys.
type faults struct {
	file FaultFile
	mu   sync.Mutex
	used map[int]int // how often, by identifier; a restart forgets it
}

// find returns the first fault for c of the kind that is asked for.
func (f *faults) find(c Claim, kind func(Fault) bool) (Fault, bool) {
	set, err := f.file.Read()
	if err != nil || f.file == "" {
		return Fault{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range set {
		if !kind(x) || !x.matches(c) {
			continue
		}
		if x.Times > 0 && f.used[x.ID] >= x.Times {
			continue
		}
		f.used[x.ID]++
		return x, true
	}
	return Fault{}, false
}

func (f *faults) is(c Claim, kind func(Fault) bool) bool {
	_, yes := f.find(c, kind)
	return yes
}

// hang waits until the caller gives up or the fault is cleared.
func (f *faults) hang(ctx context.Context, what string, id int) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-tick.C:
		}
		set, err := f.file.Read()
		if err != nil {
			continue
		}
		still := false
		for _, x := range set {
			still = still || x.ID == id
		}
		if !still {
			return status.Errorf(codes.Unavailable, "%s hung until the fault was cleared", what)
		}
	}
}

func (f *faults) beforeMake(ctx context.Context, c Claim) error {
	if x, ok := f.find(c, func(x Fault) bool { return x.HangMake }); ok {
		return f.hang(ctx, "create volume", x.ID)
	}
	if f.is(c, func(x Fault) bool { return x.FailMake }) {
		return status.Errorf(codes.Internal, "create volume for %s/%s: told to fail", c.Namespace, c.Name)
	}
	return nil
}

func (f *faults) beforeCut(ctx context.Context, c Claim) error {
	if x, ok := f.find(c, func(x Fault) bool { return x.HangCut }); ok {
		return f.hang(ctx, "create snapshot", x.ID)
	}
	if f.is(c, func(x Fault) bool { return x.FailCut }) {
		return status.Errorf(codes.Internal, "create snapshot of %s/%s: told to fail", c.Namespace, c.Name)
	}
	if x, ok := f.find(c, func(x Fault) bool { return x.SlowCut > 0 }); ok {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-time.After(x.SlowCut):
		}
	}
	return nil
}

func (f *faults) afterCut(c Claim) error {
	if f.is(c, func(x Fault) bool { return x.LoseCut }) {
		return status.Errorf(codes.Unavailable, "create snapshot of %s/%s: told to lose the answer", c.Namespace, c.Name)
	}
	return nil
}

func (f *faults) beforeDrop(c Claim) error {
	if f.is(c, func(x Fault) bool { return x.FailDrop }) {
		return status.Errorf(codes.Internal, "delete snapshot of %s/%s: told to fail", c.Namespace, c.Name)
	}
	return nil
}

// ready says whether a snapshot of a volume of c, cut at that time, may be used.
func (f *faults) ready(c Claim, cut time.Time) bool {
	if f.is(c, func(x Fault) bool { return x.NotReady }) {
		return false
	}
	return !f.is(c, func(x Fault) bool { return x.Ready > 0 && time.Since(cut) < x.Ready })
}
