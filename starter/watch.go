package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"thaw/blueprints/plan"
)

// watch shows what a run does until the context ends: one live line under the
// finished phases on a terminal, plain lines elsewhere.
func watch(ctx context.Context, c client.Client, run client.WorkflowRun, w io.Writer) {
	f, ok := w.(*os.File)
	p := printer{w: w, live: ok && term.IsTerminal(int(f.Fd())), id: run.GetID()}
	defer p.clear()
	t := time.NewTicker(250 * time.Millisecond)
	defer t.Stop()
	heard := time.Now()
	for {
		// A query is answered by a worker: without one it hangs.
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		pr, err := progress(short, c, run.GetID(), run.GetRunID())
		cancel()
		switch {
		case err == nil:
			heard = time.Now()
			p.show(pr)
		case ctx.Err() == nil && time.Since(heard) > noWorker:
			p.show(&plan.Progress{State: "no worker answers on the run's task queue; is thaw-worker up there?"})
		}
		select {
		case <-ctx.Done():
			// What the last tick did not see.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			if pr, err := progress(last, c, run.GetID(), run.GetRunID()); err == nil {
				p.show(pr)
			}
			cancel()
			return
		case <-t.C:
		}
	}
}

// noWorker is how long a run may be silent before a person is told.
const noWorker = 2 * time.Second

func progress(ctx context.Context, c client.Client, id, runID string) (*plan.Progress, error) {
	v, err := c.QueryWorkflow(ctx, id, runID, plan.QueryProgress)
	if err != nil {
		return nil, err
	}
	var p plan.Progress
	return &p, v.Get(&p)
}

type printer struct {
	w       io.Writer
	live    bool
	id      string
	phases  int
	notes   int
	last    string
	spinner int
}

func (p *printer) show(pr *plan.Progress) {
	for ; p.phases < len(pr.Phases); p.phases++ {
		r := pr.Phases[p.phases]
		line := fmt.Sprintf("%-8s %s", r.State, r.Name)
		if r.Func != "" {
			line += " (" + r.Func + ")"
		}
		line += " " + r.Ended.Sub(r.Started).Round(time.Millisecond).String()
		if r.Note != "" {
			line += ": " + r.Note
		}
		p.line(line)
	}
	for ; p.notes < len(pr.Notes); p.notes++ {
		p.line("note     " + pr.Notes[p.notes])
	}
	now := pr.State
	if pr.Phase != "" && pr.State != "completed" && pr.State != "failed" {
		now += " " + pr.Phase
	}
	if pr.FrozenSince != "" {
		now += ", frozen since " + pr.FrozenSince
	}
	if pr.WaitingFor != "" {
		now += ", waits for " + pr.WaitingFor
	}
	if pr.State == "waiting-for-approval" {
		now += fmt.Sprintf("\n         read it: thaw describe %q\n         approve: thaw approve %q --digest %s", p.id, p.id, pr.Digest)
	}
	if !p.live {
		if now != p.last {
			p.line("state    " + now)
		}
		p.last = now
		return
	}
	p.clear()
	p.spinner++
	_, _ = fmt.Fprintf(p.w, "%c %3d%% %s", `|/-\`[p.spinner%4], pr.Percent, now)
	p.last = now
}

func (p *printer) line(s string) {
	p.clear()
	_, _ = fmt.Fprintln(p.w, s)
}

// clear takes the live lines away.
func (p *printer) clear() {
	if p.live && p.last != "" {
		if n := strings.Count(p.last, "\n"); n > 0 {
			_, _ = fmt.Fprintf(p.w, "\x1b[%dA", n)
		}
		_, _ = fmt.Fprint(p.w, "\r\x1b[J")
		p.last = ""
	}
}

// writeOutcome tells a person how a run ended.
func writeOutcome(w io.Writer, id string, o *plan.Outcome) {
	if o.Plan != nil {
		writePlan(w, o.Plan)
		return
	}
	_, _ = fmt.Fprintf(w, "run            %s\n", id)
	for _, f := range o.Freezes {
		_, _ = fmt.Fprintf(w, "frozen for     %s\n", f.ThawedAt.Sub(f.DoStart).Round(time.Millisecond/10))
	}
	if rp := o.RestorePoint; rp != nil {
		_, _ = fmt.Fprintf(w, "restore point  %s\nconsistent     %t (%s)\n", rp.ID, rp.Consistent, rp.Consistency)
		if rp.Application != nil {
			writeApplication(func(name, value string) { _, _ = fmt.Fprintf(w, "%-14s %s\n", name, value) }, rp.Application)
		}
		if rp.Directory != "" {
			_, _ = fmt.Fprintf(w, "directory      %s\n", rp.Directory)
		}
	}
}
