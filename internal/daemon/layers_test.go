package daemon

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is who may import whom; a room that is not named imports no room.
var allowed = map[string][]string{
	"gosersync/cmd/gosersync":      {"gosersync/conf", "gosersync/internal/daemon", "gosersync/rsync"},
	"gosersync/internal/daemon":    {"gosersync/conf", "gosersync/watcher", "gosersync/filterqueue", "gosersync/threadpool", "gosersync/faillog", "gosersync/rsync", "gosersync/plugin", "gosersync/internal/index", "gosersync/internal/pathset"},
	"gosersync/internal/index":     {"gosersync/internal/pathset"},
	"gosersync/watcher":            {"gosersync/internal/pathset"},
	"gosersync/filterqueue":        {"gosersync/internal/pathset"},
	"gosersync/threadpool":         {"gosersync/internal/pathset"},
	"gosersync/faillog":            {"gosersync/internal/pathset"},
	"gosersync/rsync":              {"gosersync/internal/pathset"},
	"gosersync/plugin":             {"gosersync/internal/pathset"},
	"gosersync/conf":               nil,
	"gosersync/internal/pathset":   nil,
	"gosersync/internal/rsynctest": nil,
	"gosersync/internal/demo":      nil,
}

// homes are the third-party modules that only one room may know.
var homes = map[string]string{
	"github.com/beevik/etree":          "gosersync/conf",
	"github.com/dlclark/regexp2":       "gosersync/conf",
	"github.com/robfig/cron/v3":        "gosersync/conf",
	"github.com/fsnotify/fsnotify":     "gosersync/watcher",
	"golang.org/x/sys/unix":            "gosersync/watcher",
	"go.etcd.io/bbolt":                 "gosersync/internal/index",
	"github.com/spf13/pflag":           "gosersync/cmd/gosersync",
	"gopkg.in/natefinch/lumberjack.v2": "gosersync/cmd/gosersync",
}

func TestRoomsImportOnlyWhomTheyMay(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "gosersync/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		room, imports := fields[0], fields[1:]
		rooms, known := allowed[room]
		if !known {
			t.Errorf("%s is a new room: say in this table whom it may import", room)
		}
		for _, i := range imports {
			if strings.HasPrefix(i, "gosersync/") && !slices.Contains(rooms, i) {
				t.Errorf("%s imports %s, which it may not", room, i)
			}
			if home, ok := homes[i]; ok && home != room {
				t.Errorf("%s imports %s, whose only home is %s", room, i, home)
			}
		}
	}
}
