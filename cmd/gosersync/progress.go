package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"gosersync/rsync"
)

// progressEvery is how often the line of a whole-tree run is drawn.
const progressEvery = 200 * time.Millisecond

// progress draws one line with every remote's whole-tree run on a terminal.
type progress struct {
	out io.Writer // nil: nobody looks

	mu    sync.Mutex
	runs  map[string]rsync.Progress
	ended map[string]rsync.Progress // as rsync said last, and says again for each file
	drawn time.Time
}

func newProgress(start *starter) *progress {
	p := &progress{runs: map[string]rsync.Progress{}, ended: map[string]rsync.Progress{}}
	if f, ok := start.out.(*os.File); ok && !detached() && term.IsTerminal(int(f.Fd())) {
		p.out = f
	}
	return p
}

// hear is the daemon's Options.Progress.
func (p *progress) hear() func(string, rsync.Progress) {
	if p.out == nil {
		return nil
	}
	return p.draw
}

func (p *progress) draw(target string, now rsync.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended[target] == now {
		return
	}
	p.runs[target] = now
	end := now.Percent >= 100 && now.ToCheck == 0
	if time.Since(p.drawn) < progressEvery && !end {
		return
	}
	p.drawn = time.Now()
	var parts []string
	for name, r := range p.runs {
		parts = append(parts, fmt.Sprintf("%s %d%% %s, %d of %d paths left", name, r.Percent, size(r.Bytes), r.ToCheck, r.Total))
	}
	slices.Sort(parts)
	fmt.Fprintf(p.out, "\r\x1b[K%s", strings.Join(parts, " | "))
	if end {
		fmt.Fprintln(p.out)
		delete(p.runs, target)
		p.ended[target] = now
	}
}

func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out != nil && len(p.runs) > 0 {
		fmt.Fprintln(p.out)
	}
}

func size(bytes int64) string {
	const units = "KMGT"
	if bytes < 1024 {
		return fmt.Sprintf("%d B", bytes)
	}
	v, i := float64(bytes)/1024, 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
