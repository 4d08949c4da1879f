package image

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// record is one reference's claim on an image in the store: two references may share a stream and differ in what it runs. It
// is kept in a property of the image, so that it moves with its dataset.
type record struct {
	Reference string   `json:"reference"` // without digest
	Manifest  Manifest `json:"manifest"`
	SignedBy  string   `json:"signed_by,omitempty"`
}

const (
	recordPrefix = "ref-"
	noRecord     = "-" // takes a record's place: a property cannot be empty
	// formerPrefix is before a record whose tag has moved to another image: only a reference with the digest means this one now.
	formerPrefix = "-"
)

// recordKey is derived from the reference, so that a tag that moves is found on whichever image has it.
func recordKey(unpinned string) string {
	sum := sha256.Sum256([]byte(unpinned))
	return recordPrefix + hex.EncodeToString(sum[:8])
}

func (r record) key() string { return recordKey(r.Reference) }

// value is one line: JSON escapes control characters.
func (r record) value() (string, error) {
	data, err := json.Marshal(r)
	return string(data), err
}

// records are those in an image's properties. One that does not parse is none: its writer was killed.
func records(props map[string]string) []record { return recordsBehind("", props) }

// formerRecords are those whose tags have moved.
func formerRecords(props map[string]string) []record { return recordsBehind(formerPrefix, props) }

func recordsBehind(prefix string, props map[string]string) []record {
	var list []record
	for key, value := range props {
		var r record
		data, ok := strings.CutPrefix(value, prefix)
		if ok && strings.HasPrefix(key, recordPrefix) && json.Unmarshal([]byte(data), &r) == nil {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b record) int { return cmp.Compare(a.Reference, b.Reference) })
	return list
}
