package identity

import (
	"os"

	"filippo.io/edwards25519"
)

// Tags lists all tags.
func Tags() []Tag {
	return []Tag{
		TagRecordID, TagRecord, TagCertificate, TagAdmission, TagHead, TagSummary,
		TagPresence, TagLocate, TagMember, TagLogID, TagLogChain, TagVector,
	}
}

// UncheckedEd25519 makes a key of any encoding of any point, as ZIP-215 knows it.
func UncheckedEd25519(pub []byte) PublicKey {
	point, err := new(edwards25519.Point).SetBytes(pub)
	if err != nil {
		panic(err)
	}
	return ed25519Public(pub, point)
}

// CreateWithoutLinks is CreateFileAtomic on a file system without hard links.
func CreateWithoutLinks(path string, data []byte) error {
	return writeAtomic(path, data, keyFileMode, func(temp, path string) error {
		return publish(temp, path, func(string, string) error { return os.ErrPermission })
	})
}
