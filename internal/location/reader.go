package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"thaw/blueprints/fault"
)

// How a broken stream is taken up again: at most these tries without a byte
// between them, after pauses that double.
const (
	tries     = 6
	firstWait = 200 * time.Millisecond
)

// idle is how long a stream may stand still before it counts as broken.
var idle = time.Minute

// reader reads an object, and goes on where a stream breaks.
type reader struct {
	store  *store
	ctx    context.Context //nolint:containedctx // that of the Get which made it
	name   string
	at     int64 // of the next byte
	length int64 // still to read; negative: to the end, before the first stream

	stream stream
	stop   context.CancelFunc
	err    error
}

// open opens the stream at r.at. Its error is the backend's.
func (r *reader) open() error {
	ctx, stop := context.WithCancel(r.ctx)
	var slow atomic.Bool
	t := time.AfterFunc(idle, func() { slow.Store(true); stop() })
	s, err := r.store.get(ctx, r.store.key(r.name), r.at, r.length, r.stream.version)
	t.Stop()
	if err == nil && r.length >= 0 && s.left < r.length {
		_ = s.body.Close()
		err = ErrRange
	}
	if err != nil && r.stream.version != "" && sentinel(r.store.explain(err).is) != nil {
		err = fault.New(fault.Permanent, "another has replaced it since the first of it was read: read it again")
	}
	if err != nil {
		stop()
		if slow.Load() && r.ctx.Err() == nil {
			return fault.New(fault.Transient, "the store did not answer for %s; check the network to it", idle)
		}
		return err
	}
	r.stream, r.stop, r.length = s, stop, s.left
	return nil
}

func (r *reader) Read(b []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.length == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > r.length {
		b = b[:r.length]
	}
	wait := firstWait
	for try := 1; ; try++ {
		n, err := r.once(b)
		r.at += int64(n)
		r.length -= int64(n)
		if n > 0 || err == nil {
			return n, nil // a failure comes again
		}
		if r.ctx.Err() != nil || try == tries || !r.again(err) {
			r.err = r.store.fail(r.ctx, "get", r.name, err)
			return 0, r.err
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(wait):
		}
		wait *= 2
	}
}

// once reads from the stream, opened where it is not.
func (r *reader) once(b []byte) (int, error) {
	if r.stop == nil {
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	t := time.AfterFunc(idle, r.stop)
	n, err := r.stream.body.Read(b)
	t.Stop()
	if err != nil && (n < len(b) || int64(n) < r.length) {
		r.drop()
		if errors.Is(err, io.EOF) { // before its end
			err = fmt.Errorf("%w: %d bytes before the end", io.ErrUnexpectedEOF, r.length-int64(n))
		}
	}
	return n, err
}

// again says whether another stream may do better.
func (r *reader) again(err error) bool {
	return r.store.explain(err).kind == fault.Transient
}

func (r *reader) drop() {
	if r.stop != nil {
		r.stop()
		_ = r.stream.body.Close()
		r.stop = nil
	}
}

// Close ends the stream; what was not read is not fetched.
func (r *reader) Close() error {
	r.drop()
	if r.err == nil {
		r.err = errors.New("read a closed object")
	}
	return nil
}
