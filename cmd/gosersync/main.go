// Command gosersync pushes directory trees to many servers in real time:
// sersync's flags and confxml.xml, and nothing lost.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"gosersync/conf"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitOK      = 0
	exitRuntime = 1
	exitUsage   = 2
	exitConfig  = 78 // EX_CONFIG of sysexits.h
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "check":
			return check(args[1:], stdout, stderr)
		case "resync":
			return resync(args[1:], stdout, stderr)
		}
	}
	f, err := parseFlags(args)
	switch {
	case errors.Is(err, pflag.ErrHelp) || err == nil && f.help:
		fmt.Fprint(stdout, help())
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "gosersync: %v\n%s\n", err, usageHint())
		return exitUsage
	case f.version:
		fmt.Fprintf(stdout, "gosersync %s\n", version)
		return exitOK
	case f.daemon && !detached():
		return detach(args, stdout, stderr)
	}
	return serve(ctx, f, stdout, stderr)
}

// exitCode is what a failure to start or run ends with.
func exitCode(err error) int {
	var bad *conf.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &bad):
		return exitConfig
	default:
		return exitRuntime
	}
}
