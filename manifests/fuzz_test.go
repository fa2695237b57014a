package manifests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// FuzzDecode decodes any bytes: soundly, the same at every time, and with problems that can be shown. What decodes is
// the same with other line ends.
func FuzzDecode(f *testing.F) {
	for _, data := range goodManifests(f) {
		f.Add(data)
	}
	f.Add([]byte(goodRealm))
	for _, token := range tokens {
		f.Add([]byte(goodRealm + token))
		f.Add([]byte(goodRealm[:len(goodRealm)/2] + token + goodRealm[len(goodRealm)/2:]))
	}
	fixtures, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range fixtures {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytesOf(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file := Decode("a.yaml", data)
		checkSound(t, data, file)
		for _, p := range file.Problems {
			if strings.Contains(p.Message, "the YAML reader failed") {
				t.Errorf("a panic was caught: %s", p)
			}
			if strings.ContainsFunc(p.String(), unicode.IsControl) {
				t.Errorf("a problem that a terminal carries out: %q", p)
			}
			if p.Severity == Error && p.Line == 0 && len(file.Problems) <= maxProblems {
				t.Errorf("an error without a line: %s", p)
			}
		}
		if again := Decode("a.yaml", data); describe(again) != describe(file) {
			t.Errorf("another time it decodes to something else:\n%s\n%s", describe(file), describe(again))
		}
	})
}
