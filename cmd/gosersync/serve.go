package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"gopkg.in/natefinch/lumberjack.v2"

	"gosersync/conf"
	"gosersync/internal/daemon"
	"gosersync/rsync"
)

// serve runs the daemon in this process until a signal ends it.
func serve(ctx context.Context, f flags, stdout, stderr io.Writer) int {
	start := newStarter(stdout, stderr)
	err := serveUntilSignal(ctx, f, start)
	if err != nil {
		start.fail(err)
	}
	return exitCode(err)
}

func serveUntilSignal(ctx context.Context, f flags, start *starter) error {
	cfg, err := conf.Load(f.config)
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		start.say("warning: " + w.String())
	}
	binary, rsyncVersion, err := rsync.FindBinary()
	if err != nil {
		return err
	}
	place, err := daemon.PlaceFor(f.config, f.module)
	if err != nil {
		return err
	}
	claim, err := place.Claim()
	if err != nil {
		return err
	}
	defer claim.Close()
	log, closeLog := newLog(f, cfg, place, start)
	defer closeLog()
	log.Info("starting", "version", version, "config", f.config, "rsync", rsyncVersion)

	ctx, hard, release := untilSignal(ctx)
	defer release()
	reload, resync := signals(syscall.SIGHUP), signals(syscall.SIGUSR1)
	defer signal.Stop(reload)
	defer signal.Stop(resync)
	bars := newProgress(start)
	defer bars.close()
	d, err := daemon.New(daemon.Options{
		Config: cfg, StateDir: place.State, Rsync: binary,
		FirstPush: f.firstPush, Workers: f.workers, Module: f.module, AllowEmpty: f.allowEmpty,
		Log: log, Progress: bars.hear(),
		Ready:  func() { start.ready(cfg, place) },
		Reload: reload, Resync: resync,
	})
	if err != nil {
		return err
	}
	err = d.Run(ctx, hard)
	log.Info("ended", "cause", context.Cause(ctx), "err", err)
	return err
}

// newLog logs to the instance's rotated file, and in the foreground to the
// terminal.
func newLog(f flags, cfg *conf.Config, place daemon.Place, start *starter) (*slog.Logger, func()) {
	o := &slog.HandlerOptions{}
	if cfg.Debug {
		o.Level = slog.LevelDebug
	}
	if !f.daemon {
		return slog.New(slog.NewTextHandler(start.errors, o)), func() {}
	}
	file := &lumberjack.Logger{Filename: place.Log, MaxSize: 20, MaxBackups: 5, Compress: true}
	return slog.New(slog.NewTextHandler(file, o)), func() { file.Close() }
}

// untilSignal ends the first context with the first TERM or INT and the second
// with the next.
func untilSignal(parent context.Context) (soft, hard context.Context, release func()) {
	soft, end := context.WithCancelCause(parent)
	hard, cut := context.WithCancelCause(context.WithoutCancel(parent))
	got := make(chan os.Signal, 2)
	signal.Notify(got, syscall.SIGTERM, syscall.SIGINT)
	done := make(chan struct{})
	go func() {
		for _, cancel := range []context.CancelCauseFunc{end, cut} {
			select {
			case s := <-got:
				cancel(fmt.Errorf("signal: %v", s))
			case <-done:
				return
			}
		}
	}()
	return soft, hard, func() {
		signal.Stop(got)
		close(done)
		end(nil)
		cut(nil)
	}
}

func signals(s os.Signal) chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, s)
	return c
}

// resync tells the running daemon to push whole trees.
func resync(args []string, stdout, stderr io.Writer) int {
	set := newFlagSet()
	config := set.StringP("config", "o", "confxml.xml", "")
	if err := set.Parse(args); err != nil || set.NArg() > 0 {
		fmt.Fprintf(stderr, "usage: gosersync resync [-o FILE]\n")
		return exitUsage
	}
	place, err := daemon.PlaceFor(*config, "")
	if err != nil {
		fmt.Fprintf(stderr, "gosersync: %v\n", err)
		return exitRuntime
	}
	pid := place.PID()
	if pid == 0 {
		err = fmt.Errorf("no daemon runs with config %s; start it: gosersync -r -d -o %s", *config, *config)
	} else {
		err = syscall.Kill(pid, syscall.SIGUSR1)
	}
	if err != nil {
		fmt.Fprintf(stderr, "gosersync: %v\n", err)
		return exitRuntime
	}
	fmt.Fprintf(stdout, "pid %d pushes whole trees now; see %s\n", pid, place.Log)
	return exitOK
}

var errNotReady = errors.New("the daemon ended before the trees were watched")
