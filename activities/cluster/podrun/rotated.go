package podrun

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
)

// The log files that the kubelet has rotated away are read through the node's
// proxy, which the optional role "rotated-logs" allows (catalogue.Roles).
// Without it a run whose log was rotated while no stream was open fails, and
// says so.

// recover reads, from the files that the kubelet has rotated away, the lines
// between the last one that was read and until (zero: to their end).
func (l *reader) recover(ctx context.Context, until time.Time) {
	n, err := l.rotated(ctx, until)
	if err != nil && l.at.IsZero() {
		// Most logs were never rotated: nothing says that this one was.
		l.r.env.Log.Warn("older files of a pod's log are not looked for", "pod", l.r.name(), "error", err)
		return
	}
	if err != nil {
		l.lost = fault.New(fault.Permanent, "%w: the kubelet rotated the log while no stream of it was open, and the older files cannot be read (%w); "+
			"allow the worker to get nodes/proxy (thaw rbac --with rotated-logs), give the kubelet a larger containerLogMaxSize, or print less", errLost, err)
		l.r.env.Log.Error("lines of a pod's log are lost", "pod", l.r.name(), "error", l.lost)
		return
	}
	if n > 0 {
		l.r.env.Log.Info("lines found in rotated log files", "pod", l.r.name(), "lines", n)
	}
}

// logFile is the name of a rotated file, as the kubelet gives it.
var logFile = regexp.MustCompile(`href="(\d+\.log\.\d{8}-\d{6}(?:\.gz)?)"`)

func (l *reader) rotated(ctx context.Context, until time.Time) (lines int, err error) {
	pod := l.r.pod
	node := pod.Spec.NodeName
	if node == "" {
		var now *corev1.Pod
		if now, err = l.r.find(ctx); err != nil || now == nil {
			return 0, fmt.Errorf("its node is not known: %w", err)
		}
		node = now.Spec.NodeName
	}
	dir := fmt.Sprintf("%s_%s_%s/%s", pod.Namespace, pod.Name, pod.UID, l.r.task.Output)
	get := func(file string) (io.ReadCloser, error) {
		return l.r.c.Kube.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/"+node+"/proxy/logs/pods/"+dir+"/"+file).
			SetHeader("Accept", "*/*").Stream(ctx)
	}
	var files []string
	err = cluster.Insist(ctx, l.r.env.Heartbeat, func(context.Context) error {
		list, err := get("")
		if err != nil {
			return err
		}
		defer func() { _ = list.Close() }()
		page, err := io.ReadAll(io.LimitReader(list, 1<<20))
		for _, m := range logFile.FindAllSubmatch(page, -1) {
			files = append(files, string(m[1]))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(files) // their names end in the time of the rotation
	since := l.at
	for _, f := range slices.Compact(files) {
		body, err := get(f)
		if err != nil {
			return lines, err
		}
		n, err := l.rotatedFile(body, f, since, until)
		lines += n
		_ = body.Close()
		if err != nil {
			return lines, fmt.Errorf("%s: %w", f, err)
		}
	}
	return lines, nil
}

// rotatedFile reads a file in the CRI's format: time, stream, tags, text. A
// line in pieces has the tag P on all but the last.
func (l *reader) rotatedFile(body io.Reader, name string, since, until time.Time) (lines int, err error) {
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(body)
		if err != nil {
			return 0, err
		}
		body = z
	}
	in := bufio.NewReaderSize(body, 64<<10)
	var whole []byte
	var first time.Time
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return lines, err
		}
		parts := bytes.SplitN(line, []byte(" "), 4)
		if len(parts) < 4 {
			continue
		}
		at, err := time.Parse(time.RFC3339Nano, string(parts[0]))
		if err != nil {
			continue
		}
		if len(whole) == 0 {
			first = at
		}
		if bytes.HasPrefix(parts[2], []byte("P")) {
			whole = append(whole, bytes.TrimSuffix(parts[3], []byte("\n"))...)
			continue
		}
		text := append(whole, parts[3]...) //nolint:gocritic // whole is set anew below
		whole = nil
		if !first.After(since) || !until.IsZero() && !first.Before(until) {
			continue
		}
		l.accept(first, text)
		lines++
	}
}
