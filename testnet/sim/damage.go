package sim

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
)

// damage is what a hand or a failing disk takes from a pillar that is down.
type damage int

const (
	someRecords damage = iota
	someEntries
	allEntries
	someBoxes
	allBoxes
	allStates
	damages // how many there are
)

func (d damage) String() string {
	return [...]string{"some records", "some log entries", "all log entries", "some mailbox entries", "all mailbox entries", "what is known of logs"}[d]
}

// spoil deletes from the disk.
func (d *disk) spoil(what damage, rng *rand.Rand) error {
	view := d.content.View()
	defer view.Close()
	commit := &overlay.Commit{Time: time.Now()}
	parts := view.Parts()
	days, err := parts.Days()
	if err != nil {
		return err
	}
	some := func() bool { return rng.IntN(4) == 0 }
	switch what {
	case someRecords:
		for _, day := range days {
			err := parts.Heads(day, overlay.RecordID{}, func(r overlay.StoredRecord) bool {
				if some() {
					commit.Forget = append(commit.Forget, overlay.Forgotten{ID: r.ID, Day: day, Local: r.Local})
				}
				return true
			})
			if err != nil {
				return err
			}
		}
	case someBoxes, allBoxes:
		for _, day := range days {
			err := parts.Places(day, overlay.Place{Day: day}, func(p overlay.Place, _ overlay.BoxEntry) bool {
				if what == allBoxes || some() {
					commit.Unfile = append(commit.Unfile, p)
				}
				return true
			})
			if err != nil {
				return err
			}
		}
	case someEntries, allEntries:
		var logs []overlay.LogID
		if err := parts.Logs(func(log overlay.LogID) bool { logs = append(logs, log); return true }); err != nil {
			return err
		}
		if what == allEntries {
			commit.DropLog = logs
			break
		}
		for _, log := range logs {
			err := view.Log(log, 0, func(seq uint64, _ overlay.LogEntry) bool {
				if some() {
					commit.CutLog = append(commit.CutLog, overlay.LogCut{Log: log, From: seq, To: seq})
				}
				return true
			})
			if err != nil {
				return err
			}
		}
	case allStates:
		err := view.Values("l", func(key string, _ []byte) bool {
			if strings.HasPrefix(key, "log/") || strings.HasPrefix(key, "lack/") {
				commit.Values = append(commit.Values, overlay.Value{Key: key})
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	d.reverts = append(d.reverts, time.Now())
	_, err = d.content.Commit(commit)
	return err
}
