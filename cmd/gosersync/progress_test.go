package main

import (
	"bytes"
	"strings"
	"testing"

	"gosersync/rsync"
)

func TestTheEndOfAPushIsDrawnOnce(t *testing.T) {
	var out bytes.Buffer
	p := &progress{out: &out, runs: map[string]rsync.Progress{}, ended: map[string]rsync.Progress{}}
	p.draw("r", rsync.Progress{Bytes: 1 << 20, Percent: 50, ToCheck: 5, Total: 10})
	for range 10 {
		p.draw("r", rsync.Progress{Bytes: 2 << 20, Percent: 100, Total: 10})
	}
	want := "\r\x1b[Kr 50% 1.0 MiB, 5 of 10 paths left\r\x1b[Kr 100% 2.0 MiB, 0 of 10 paths left\n"
	if got := out.String(); got != want || strings.Count(got, "\n") != 1 {
		t.Errorf("drawn %q, want %q", got, want)
	}
}
