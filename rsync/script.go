package rsync

import (
	"slices"
	"strings"

	"gosersync/internal/pathset"
)

// Script is POSIX sh that does for set what Sync would: an operator may read
// it, and run it by hand.
func (c *Client) Script(set *pathset.Set) string {
	p := c.look(set)
	var b strings.Builder
	write := func(k kind, rels []string, extra ...string) {
		if len(rels) == 0 {
			return
		}
		slices.Sort(rels)
		b.WriteString("cd " + quote(c.o.Root) + ` && printf '%s\0'`)
		for _, rel := range rels {
			b.WriteString(" \\\n  " + quote("./"+rel))
		}
		b.WriteString(" \\\n  | " + quote(c.o.Binary))
		for _, a := range c.args(k, extra...) {
			b.WriteString(" " + quote(a))
		}
		b.WriteByte('\n')
	}
	write(names, slices.Concat(p.names, p.removals), c.removalArgs(true)...)
	write(trees, p.trees)
	write(mirrors, p.mirrors)
	return b.String()
}

// plain are the bytes that need no quotes.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./-_"

// quote makes s one word of sh that nothing in it can leave.
func quote(s string) string {
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
