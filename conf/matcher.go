package conf

import (
	"regexp"
	"time"

	"github.com/dlclark/regexp2"
)

// bwlimit is a rate as rsync's --bwlimit takes it.
var bwlimit = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?[bBkKmMgG]?[iI]?[bB]?$`)

// matchLimit ends an expression that backtracks for ever.
const matchLimit = time.Second

// Matcher is a regular expression that must match a whole string of bytes.
type Matcher struct {
	text string
	fast *regexp.Regexp
	full *regexp2.Regexp // for look-around and back-references, which fast lacks
}

// compile reads Perl's dialect, as Boost does for sersync. Expression and names
// are bytes: both are widened to the rune of each byte, so that a name in any
// encoding matches an expression in the same.
func compile(text string) (Matcher, error) {
	whole := `\A(?:` + widen([]byte(text)) + `)\z`
	fast, err := regexp.Compile(`(?s)` + whole)
	if err == nil {
		return Matcher{text: text, fast: fast}, nil
	}
	full, err := regexp2.Compile(whole, regexp2.Singleline)
	if err != nil {
		return Matcher{}, err
	}
	full.MatchTimeout = matchLimit
	return Matcher{text: text, full: full}, nil
}

// Match tells whether the whole of s matches. An expression that takes too long
// does not.
func (m Matcher) Match(s string) bool {
	wide := wideName(s)
	if m.fast != nil {
		return m.fast.MatchString(wide)
	}
	ok, err := m.full.MatchString(wide)
	return err == nil && ok
}

// String is the expression as it stands in the file.
func (m Matcher) String() string { return m.text }

// wideName widens only where there is something to widen.
func wideName(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			runes := make([]rune, len(s))
			for j := range len(s) {
				runes[j] = rune(s[j])
			}
			return string(runes)
		}
	}
	return s
}
