package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"gosersync/internal/pathset"
)

// What is more than this travels apart from small names, which must not wait
// behind it.
const (
	bulkBytes = 32 << 20
	bulkNames = 1000
)

var errBulk = errors.New("more than travels with small names")

// bulk tells whether sending p means much work. It looks at no more than
// bulkNames entries.
func bulk(root string, p pathset.Path) bool {
	if p.Rel == pathset.Root {
		return p.Tree
	}
	full := filepath.Join(root, p.Rel)
	if !p.Tree {
		info, err := os.Lstat(full)
		return err == nil && info.Mode().IsRegular() && info.Size() >= bulkBytes
	}
	names, bytes := 0, int64(0)
	err := filepath.WalkDir(full, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be read costs nothing
		}
		if d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		if names++; names > bulkNames || bytes >= bulkBytes {
			return errBulk
		}
		return nil
	})
	return err != nil
}
