package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// flags are sersync's, with long names, and gosersync's own.
type flags struct {
	firstPush  bool
	daemon     bool
	config     string
	workers    int
	module     string
	allowEmpty bool
	help       bool
	version    bool
}

// modules are the values of -m.
var modules = []string{"refreshCDN", "socket", "http", "command"}

func parseFlags(args []string) (flags, error) {
	var f flags
	set := newFlagSet()
	set.BoolVarP(&f.firstPush, "first-push", "r", false, "")
	set.BoolVarP(&f.daemon, "daemon", "d", false, "")
	set.StringVarP(&f.config, "config", "o", "confxml.xml", "")
	set.IntVarP(&f.workers, "workers", "n", 0, "")
	set.StringVarP(&f.module, "module", "m", "", "")
	set.BoolVar(&f.allowEmpty, "allow-empty", false, "")
	set.BoolVarP(&f.help, "help", "h", false, "")
	set.BoolVar(&f.version, "version", false, "")
	if err := set.Parse(args); err != nil {
		return f, err
	}
	return f, f.check(set)
}

func newFlagSet() *pflag.FlagSet {
	set := pflag.NewFlagSet("gosersync", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	return set
}

func (f flags) check(set *pflag.FlagSet) error {
	switch {
	case set.NArg() > 0:
		return fmt.Errorf("unknown argument %q", set.Arg(0))
	case set.Changed("workers") && f.workers < 1:
		return fmt.Errorf("-n %d: the number of workers is 1 or more", f.workers)
	case f.module != "" && !slices.Contains(modules, f.module):
		return fmt.Errorf("-m %s: unknown module; known are %s", f.module, strings.Join(modules, ", "))
	}
	return nil
}

// chinese tells whether the operator's locale is Chinese.
func chinese() bool {
	for _, name := range []string{"LC_ALL", "LC_MESSAGES", "LANG"} {
		if v := os.Getenv(name); v != "" {
			return strings.HasPrefix(v, "zh")
		}
	}
	return false
}

func help() string {
	if chinese() {
		return helpChinese
	}
	return helpEnglish
}

func usageHint() string {
	if chinese() {
		return "用法见: gosersync --help"
	}
	return "for usage see: gosersync --help"
}

const helpEnglish = `gosersync pushes directory trees to many servers in real time (inotify, rsync).
It reads sersync's confxml.xml and takes sersync's flags.

usage: gosersync [-r] [-d] [-o FILE] [-n N] [-m MODULE]
       gosersync check --offline [--json] [-o FILE]
       gosersync resync [-o FILE]

  -r, --first-push    push every tree to every remote once, after the trees are
                      watched; with <delete start="true"/> remotes become mirrors
  -d, --daemon        detach; returns when the trees are watched
  -o, --config FILE   configuration; default confxml.xml in this directory
  -n, --workers N     rsync runs at once; default cores*2+2
  -m, --module NAME   run only one plugin: refreshCDN, socket, http, command
      --allow-empty   let an empty or replaced source remove at the remotes
  -h, --help          this text
      --version       the version

  check --offline     say what the file means, touch nothing; --json for programs
  resync              tell the running daemon to push whole trees now

signals: TERM or INT drains and ends, a second one ends at once;
         HUP reads the configuration again
exit:    0 well, 1 failed, 2 usage, 78 configuration
`

const helpChinese = `gosersync 实时地把目录树推送到多台服务器 (inotify + rsync)。
配置文件 confxml.xml 和命令行参数与 sersync 相同。

用法: gosersync [-r] [-d] [-o 文件] [-n 数量] [-m 模块]
      gosersync check --offline [--json] [-o 文件]
      gosersync resync [-o 文件]

  -r, --first-push    监控建立之后, 把每个目录树完整推送一次到所有远端;
                      若 <delete start="true"/>, 远端将成为镜像
  -d, --daemon        后台运行; 监控建立之后才返回
  -o, --config 文件   配置文件, 默认为当前目录的 confxml.xml
  -n, --workers 数量  同时运行的 rsync 数量, 默认 核数*2+2
  -m, --module 模块   只运行一个插件: refreshCDN, socket, http, command
      --allow-empty   允许空的或被替换的源目录在远端删除文件
  -h, --help          显示本帮助
      --version       显示版本

  check --offline     说明配置文件的含义, 不触碰任何东西; --json 供程序读取
  resync              让正在运行的守护进程立即完整推送

信号: TERM 或 INT 发完后退出, 再来一次则立即退出; HUP 重新读取配置
退出码: 0 正常, 1 失败, 2 用法错误, 78 配置错误
`
