module gosersync

go 1.26.8

require (
	github.com/beevik/etree v1.8.1 // conf: elements by name, whatever their order
	github.com/dlclark/regexp2 v1.12.0 // conf: look-around and back-references of sersync's Perl-like filters
	github.com/fsnotify/fsnotify v1.10.1 // watcher: the portable backend
	github.com/mattn/go-shellwords v1.0.16 // conf, plugin: quotes in params, prefix and suffix
	github.com/robfig/cron/v3 v3.0.1 // conf: cron lines in crontab@schedule
	github.com/spf13/pflag v1.0.10 // cmd: sersync's combined flags and long names
	golang.org/x/sync v0.24.0 // errgroup: who starts a goroutine waits for it
	golang.org/x/sys v0.49.0 // watcher: inotify, leases, poll
	golang.org/x/term v0.47.0 // cmd: is there a terminal for the progress line
	gopkg.in/natefinch/lumberjack.v2 v2.2.1 // cmd: rotation of the daemon's log
	pgregory.net/rapid v1.3.0 // tests: properties of sets and lanes
)

require go.etcd.io/bbolt v1.5.0
