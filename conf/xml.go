package conf

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"

	"github.com/beevik/etree"
)

// document is a parsed file: etree's elements, and the line each starts in.
type document struct {
	root  *etree.Element
	lines map[*etree.Element]int
}

var (
	declaration = regexp.MustCompile(`^\s*<\?xml[^>]*\?>`)
	loneAmp     = regexp.MustCompile(`&([A-Za-z0-9#]*;?)`)
	entity      = regexp.MustCompile(`^&(amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);$`)
)

// readXML parses data as leniently as sersync does: comments may hold "--",
// text may stand between elements, "&" may stand alone, and the declared
// encoding is not believed. Bytes pass through it unchanged: each is widened to
// the rune of its value, and bytesOf narrows it again.
func readXML(data []byte) (*document, int, error) {
	text := widen(clean(data))
	text = loneAmp.ReplaceAllStringFunc(text, func(m string) string {
		if entity.MatchString(m) {
			return m
		}
		return "&amp;" + m[1:]
	})
	lines, line, err := startLines(text)
	if err != nil {
		return nil, line, err
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(text); err != nil {
		return nil, line, err
	}
	if doc.Root() == nil {
		return nil, 1, errors.New("the file has no element")
	}
	d := &document{root: doc.Root(), lines: map[*etree.Element]int{}}
	d.number(doc.Root(), &lines)
	return d, 0, nil
}

// clean blanks out the byte order mark, the declaration and all comments, but
// not their newlines, so that lines keep their numbers.
func clean(data []byte) []byte {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	out := bytes.Clone(data)
	blank := func(from, to int) {
		for i := from; i < to; i++ {
			if out[i] != '\n' {
				out[i] = ' '
			}
		}
	}
	if m := declaration.FindIndex(out); m != nil {
		blank(m[0], m[1])
	}
	for at := 0; ; {
		from := bytes.Index(out[at:], []byte("<!--"))
		if from < 0 {
			return out
		}
		from += at
		to := bytes.Index(out[from+4:], []byte("-->"))
		if to < 0 {
			return out // the parser says so, with its line
		}
		at = from + 4 + to + 3
		blank(from, at)
	}
}

func widen(data []byte) string {
	var b strings.Builder
	for _, c := range data {
		// A control character is no XML, and means nothing here.
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			c = ' '
		}
		b.WriteRune(rune(c))
	}
	return b.String()
}

// bytesOf undoes widen.
func bytesOf(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r > 0xff {
			b.WriteRune(r) // from a character reference
			continue
		}
		b.WriteByte(byte(r))
	}
	return b.String()
}

// startLines is the line of each start tag, in the order of the document. An
// error comes with its line.
func startLines(text string) (lines []int, line int, err error) {
	d := xml.NewDecoder(strings.NewReader(text))
	newlines := 0
	at := int64(0)
	for {
		from := d.InputOffset()
		newlines += strings.Count(text[at:from], "\n")
		at = from
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return lines, 0, nil
		}
		if err != nil {
			line, _ := d.InputPos()
			var syntax *xml.SyntaxError
			if errors.As(err, &syntax) {
				line, err = syntax.Line, errors.New(syntax.Msg)
			}
			return nil, line, err
		}
		if _, ok := token.(xml.StartElement); ok {
			lines = append(lines, 1+newlines+leadingNewlines(text[from:]))
		}
	}
}

// leadingNewlines: a token starts where the one before it ended, at its "<".
func leadingNewlines(text string) int {
	return strings.Count(text[:max(0, strings.IndexByte(text, '<'))], "\n")
}

func (d *document) number(e *etree.Element, lines *[]int) {
	if len(*lines) > 0 {
		d.lines[e], *lines = (*lines)[0], (*lines)[1:]
	}
	for _, c := range e.ChildElements() {
		d.number(c, lines)
	}
}
