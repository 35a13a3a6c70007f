package filterqueue

import "strings"

// Temporary tells whether the last element of rel looks like a name that
// editors, office programs, browsers or rsync give to a file for a moment.
func Temporary(rel string) bool {
	name := base(rel)
	return name == "4913" || // vim's test whether it may write in the directory
		strings.HasSuffix(name, "~") ||
		between(name, "#", "#") ||
		strings.HasPrefix(name, ".#") ||
		between(name, ".~lock.", "#") ||
		strings.HasPrefix(name, ".goutputstream-") ||
		hasTempSuffix(name) ||
		swapFile(name) ||
		receiving(name)
}

// Dropped is sersync's own rule: names with a leading dot, names that end in ~,
// and 4913 are not sent in real time.
func Dropped(rel string) bool {
	name := base(rel)
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || name == "4913"
}

func base(rel string) string { return rel[strings.LastIndexByte(rel, '/')+1:] }

func between(name, prefix, suffix string) bool {
	return len(name) > len(prefix)+len(suffix) && strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix)
}

func hasTempSuffix(name string) bool {
	for _, s := range []string{".tmp", ".temp", ".part", ".partial", ".crdownload", ".filepart", ".swpx"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return false
}

// swapFile matches vim's `.name.swp`, `.name.swo` and on, down to `.name.saa`.
func swapFile(name string) bool {
	i := strings.LastIndexByte(name, '.')
	ext := name[i+1:]
	return i > 0 && name[0] == '.' && len(ext) == 3 && ext[:2] == "sw" && isLower(ext[2])
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' }

// receiving matches `.name.XXXXXX`, under which rsync writes until it renames.
func receiving(name string) bool {
	i := strings.LastIndexByte(name, '.')
	if i < 1 || name[0] != '.' || len(name)-i-1 != 6 {
		return false
	}
	mixed := false
	for _, c := range []byte(name[i+1:]) {
		switch {
		case isLower(c):
		case 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			mixed = true
		default:
			return false
		}
	}
	// All six lower case is far more often an extension than mkstemp's doing.
	return mixed
}
