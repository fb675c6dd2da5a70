package location

import (
	"context"
	"io"
	"sync"

	"thaw/blueprints/fault"
)

const mib = 1 << 20

// A store takes an object in parts of bounded number, so the parts of a stream
// whose length nobody knows grow: the first thousand of 8 MiB, the next of 16,
// and so on. In memory are, at a time: 64 MiB for a stream of up to 54 GiB,
// 256 MiB up to 242 GiB, 512 MiB up to 492 GiB, then 1.25 GiB up to 5.3 TiB.
// An object whose length is known has parts of one size, 64 MiB in memory up to
// 280 GiB, and 1.2 GiB at 5 TiB.
const (
	firstPart  = 8 * mib
	lastPart   = 1280 * mib
	stageParts = 1000
	stages     = 6 // of them; the rest are of lastPart
	maxParts   = 10_000
	maxMemory  = 64 * mib
	// oneShot is the longest object of known length that goes without parts.
	oneShot = 32 * mib
)

// partSize is that of a part, by its number from 1.
func partSize(number int, known int64) int64 {
	if known > 0 {
		if known <= oneShot {
			return known
		}
		size := (known + maxParts - 1) / maxParts
		return max(firstPart, (size+mib-1)/mib*mib)
	}
	if stage := (number - 1) / stageParts; stage < stages {
		return firstPart << stage
	}
	return lastPart
}

// parallel is how many parts of a size are in memory at a time.
func parallel(size int64) int {
	if size > 512*mib {
		return 1
	}
	return int(min(max(maxMemory/size, 2), 8))
}

// readFirst reads the first part. whole: that was all of the stream.
func readFirst(r io.Reader, known int64) (b []byte, whole bool, err error) {
	size := partSize(1, known)
	if known > 0 {
		b = make([]byte, 0, min(known, size))
	} else {
		b = make([]byte, 0, 32<<10) // most streams are short
	}
	for int64(len(b)) < size {
		if len(b) == cap(b) {
			more := make([]byte, len(b), min(int64(cap(b))*4, size))
			copy(more, b)
			b = more
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF { // itself: see fill
			return b, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	if known == int64(len(b)) { // there may be more than was announced
		n, err := fill(r, make([]byte, 1))
		return b, err == io.EOF && n == 0, notEnd(err) //nolint:errorlint // see above
	}
	return b, false, nil
}

// fill reads until b is full. Only io.EOF itself is the end of the source: not
// one that a broken source wraps, and not io.ErrUnexpectedEOF.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

func notEnd(err error) error {
	if err == io.EOF { //nolint:errorlint // see fill
		return nil
	}
	return err
}

// sendParts sends a stream that begins with first, and returns when all parts
// are sent, or none is being sent any more. send may be called at the same time
// for several parts, whose numbers begin with 1.
func sendParts(ctx context.Context, first []byte, r io.Reader, known int64, send func(ctx context.Context, number int, b []byte) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var running sync.WaitGroup
	defer running.Wait()
	start := func(number int, b []byte, then func()) {
		running.Go(func() {
			if err := send(ctx, number, b); err != nil {
				stop(err)
			}
			then()
		})
	}
	for number, end := 1, false; !end; {
		// A stage: parts of one size, in buffers that are used again.
		running.Wait()
		size := partSize(number, known)
		free := make(chan []byte, parallel(size))
		for range cap(free) {
			free <- nil
		}
		for ; !end && partSize(number, known) == size; number++ {
			var b []byte
			select {
			case b = <-free:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			n, err := len(first), error(nil)
			if number == 1 {
				b = first
			} else {
				if int64(cap(b)) < size {
					b = make([]byte, size)
				}
				n, err = fill(r, b[:size])
			}
			if end = err == io.EOF; !end && err != nil { //nolint:errorlint // see fill
				stop(err)
				return err
			}
			if n == 0 {
				break
			}
			if number > maxParts {
				return fault.New(fault.Permanent, "it is longer than %d parts hold: split it, or compress it", maxParts)
			}
			start(number, b[:n], func() { free <- b })
		}
	}
	running.Wait()
	return context.Cause(ctx)
}
