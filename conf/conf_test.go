package conf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// wrap is a whole file round what stands below sersync.
func wrap(sersync string) string {
	return "<head version=\"2.5\">\n<sersync>\n" + sersync + "\n</sersync>\n</head>\n"
}

const oneTree = `<localpath watch="/srv"><remote ip="10.0.0.2" name="www"/></localpath>`

func parse(t *testing.T, text string) *Config {
	t.Helper()
	cfg, err := Parse("t.xml", []byte(text))
	if err != nil {
		t.Fatalf("Parse = %v", err)
	}
	return cfg
}

func TestTheSampleIsRightAndBilingual(t *testing.T) {
	cfg, err := Load("confxml.xml")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range cfg.Warnings {
		t.Errorf("warning: %s", w)
	}
	text, err := os.ReadFile("confxml.xml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "远端") {
		t.Error("the sample has no Chinese comments")
	}
	if got := cfg.Trees[0].Remotes[0].Target(); got != "127.0.0.1::tongbu1" {
		t.Errorf("target = %q, want 127.0.0.1::tongbu1", got)
	}
}

// The files in testdata are as operators write them. What each means stands in
// a line of targets.txt.
func TestFilesAsOperatorsWriteThem(t *testing.T) {
	want, err := os.ReadFile("testdata/targets.txt")
	if err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob("testdata/*.xml")
	var got strings.Builder
	for _, f := range files {
		cfg, err := Load(f)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		for _, tree := range cfg.Trees {
			for _, r := range tree.Remotes {
				fmt.Fprintf(&got, "%s %q %q port=%d timeout=%v password=%s params=%q\n",
					filepath.Base(f), tree.Watch, r.Target(), r.Port, r.Timeout, r.PasswordFile, r.Params)
			}
		}
	}
	if got.String() != string(want) {
		t.Errorf("targets are\n%swant\n%s", got.String(), want)
	}
}

func TestErrorsSayWhereAndWhat(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a time that is no number", wrap(oneTree + "\n<rsync><timeout start=\"true\" time=\"abc\"/></rsync>"), `t.xml:4: head/sersync/rsync/timeout@time: "abc" is not a whole number`},
		{"a port out of range", wrap("<localpath watch=\"/srv\">\n<remote ip=\"a\" name=\"b\" port=\"70000\"/></localpath>"), `t.xml:4: head/sersync/localpath/remote@port: "70000" is not`},
		{"a relative watch", wrap(`<localpath watch="srv"/>`), `t.xml:3: head/sersync/localpath@watch: "srv" is not absolute`},
		{"the whole machine", wrap(`<localpath watch="/"/>`), "is the whole machine"},
		{"no localpath", wrap(""), "nothing to watch"},
		{"a remote without a name", wrap(`<localpath watch="/srv"><remote ip="a"/></localpath>`), "remote@name: is missing"},
		{"a remote that is an option", wrap(`<localpath watch="/srv"><remote ip="-e" name="x"/></localpath>`), "begins with -"},
		{"a remote twice", wrap(`<localpath watch="/srv"><remote ip="a" name="x"/><remote ip="a" name="x"/></localpath>`), "stands in line 3 already"},
		{"a tree twice", wrap(oneTree + oneTree), "is watched by the localpath in line 3"},
		{"a bad regex", `<head><filter start="true"><exclude expression="("/></filter><sersync>` + oneTree + `</sersync></head>`, "is not a regular expression"},
		{"a bad backend", wrap(`<localpath watch="/srv" backend="fam"/>`), "allowed: inotify, fsnotify"},
		{"a bad temp", `<head><filter temp="x"/><sersync>` + oneTree + `</sersync></head>`, "allowed: hold, drop, send"},
		{"an open quote", wrap(oneTree + `<rsync><commonParams params="-a 'x"/></rsync>`), "quote that is not closed"},
		{"a dry run", wrap(oneTree + `<rsync><commonParams params="-avn"/></rsync>`), "-avn cannot be used"},
		{"a bad schedule", wrap(oneTree + `<crontab start="true" schedule="1 2 3"/>`), "neither minutes nor a cron line"},
		{"an unknown plugin", wrap(oneTree + `<plugin start="true" name="mail"/>`), `"mail" is unknown`},
		{"a plugin without settings", wrap(oneTree + `<plugin start="true" name="http"/>`), "there is no <plugin name="},
		{"not closed", "<head>\n<sersync>\n</head>", "t.xml:3: is not XML"},
		{"empty", "", "is not XML"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("t.xml", []byte(c.text))
			var bad *Error
			if !errors.As(err, &bad) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Parse = %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestAllErrorsAreShownAtOnce(t *testing.T) {
	_, err := Parse("t.xml", []byte(wrap(`<localpath watch="srv"><remote ip="a" name="b" port="x"/></localpath><failLog path="f" timeToExecute="0"/>`)))
	if n := strings.Count(fmt.Sprint(err), "\n") + 1; n != 4 {
		t.Errorf("%d problems are shown, want 4:\n%v", n, err)
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"-u", wrap(oneTree + `<rsync><commonParams params="-artuz"/></rsync>`), "two hosts that push to each other"},
		{"--delete", wrap(oneTree + `<rsync><commonParams params="-a --delete"/></rsync>`), "has no effect"},
		{"an unknown element", wrap(oneTree + "\n<locaIpath/>"), "t.xml:4: head/sersync/locaIpath: unknown element"},
		{"an unknown attribute", wrap(`<localpath watch="/srv" recursive="1"><remote ip="a" name="b"/></localpath>`), "localpath@recursive: unknown attribute"},
		{"yes", wrap(oneTree + `<crontab start="yes"/>`), "counts as false"},
		{"nested trees", wrap(oneTree + `<localpath watch="/srv/a"><remote ip="a" name="b"/></localpath>`), "lie in one another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, w := range parse(t, c.text).Warnings {
				got = append(got, w.String())
			}
			if all := strings.Join(got, "\n"); !strings.Contains(all, c.want) {
				t.Errorf("warnings are\n%s\nwant one with %q", all, c.want)
			}
		})
	}
}

func TestBytesPassThroughWhateverEncodingIsDeclared(t *testing.T) {
	gbk := "/srv/\xcd\xf8\xd5\xbe"
	for _, watch := range []string{gbk, "/srv/网站", "/srv/a b"} {
		text := "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<!-- -- \xcd\xf8 -- -->\n" +
			wrap("# note\n<localpath watch=\""+watch+"/\"><remote ip=\"a\" name=\"b\"/></localpath>")
		if got := parse(t, text).Trees[0].Watch; got != watch {
			t.Errorf("watch = %q, want %q", got, watch)
		}
	}
}

func TestARemotesAttributesLieOverTheCommonOnes(t *testing.T) {
	cfg := parse(t, wrap(`<localpath watch="/srv">
<remote ip="a" name="m"/>
<remote ip="b" name="/dir" ssh="true" port="22" users="u" params="-a" bwlimit="1m"/></localpath>
<rsync><commonParams params="-artz"/><auth start="true" users="root" passwordfile="/none"/>
<userDefinedPort start="true" port="874"/><timeout start="true" time="100"/></rsync>`))
	a, b := cfg.Trees[0].Remotes[0], cfg.Trees[0].Remotes[1]
	if a.Target() != "root@a::m" || a.Port != 874 || a.Timeout != 100*time.Second || a.PasswordFile != "/none" {
		t.Errorf("the first remote is %+v", a)
	}
	if b.Target() != "u@b:/dir" || b.Port != 22 || b.Params[0] != "-a" || b.BWLimit != "1m" {
		t.Errorf("the second remote is %+v", b)
	}
}

func TestSchedules(t *testing.T) {
	now := time.Date(2026, 11, 21, 10, 0, 0, 0, time.Local)
	for text, want := range map[string]time.Duration{"600": 600 * time.Minute, "0": 600 * time.Minute, "30 12 * * *": 150 * time.Minute} {
		cfg := parse(t, wrap(oneTree+`<crontab start="true" schedule="`+text+`"/>`))
		if got := cfg.Crontab.Schedule.Next(now).Sub(now); got != want {
			t.Errorf("schedule %q is due in %v, want %v", text, got, want)
		}
	}
}

func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		re, name string
		want     bool
	}{
		{`(.*)\.gz`, "a.gz", true},
		{`(.*)\.gz`, "a.gz.x", false},
		{`(?!keep).*\.log`, "x.log", true},
		{`(?!keep).*\.log`, "keep.log", false},
		{`图(.*)`, "图片", true},
		{`a.b`, "a\xffb", true},
	} {
		m, err := compile(c.re)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Match(c.name); got != c.want {
			t.Errorf("%s matches %q = %v, want %v", c.re, c.name, got, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(wrap(oneTree)))
	f.Add([]byte("<head>&&<a b='"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, err := Parse("t.xml", data)
		var bad *Error
		if err != nil && !errors.As(err, &bad) {
			t.Errorf("Parse(%q) = %v, want an *Error", data, err)
		}
		if bad == nil {
			return
		}
		for _, p := range bad.Problems {
			if p.Line > strings.Count(string(data), "\n")+1 {
				t.Errorf("Parse(%q): line %d is not in the file", data, p.Line)
			}
		}
	})
}
