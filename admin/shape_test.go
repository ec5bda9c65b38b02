package admin_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/overlay"
)

// Scripts rely on every key being there, whatever its value.
func TestShapes(t *testing.T) {
	text := ""
	out := overlay.OutMessage{Recipients: []overlay.RecipientState{{}}}
	tests := []struct {
		name  string
		value any
		keys  string
	}{
		{"pillar status", admin.PillarStatus{}, "role id name network version started uptime_s listen log records mailboxes store_bytes " +
			"nodes_connected relayed_circuits pillars_alive converged clock_skew_ms clock_warning standing draining full catching_up diverged home relays expiring_unconfirmed"},
		{"expiring", admin.ExpiringStatus{}, "messages accounts at_least looked_at"},
		{"trace", admin.TraceEntry{}, "pillar answered has received_at via dots expires why detail recipients"},
		{"trace's recipient", admin.RecipientEntry{}, "account receipts more devices"},
		{"trace's receipt", admin.ReceiptEntry{}, "id created received_at"},
		{"trace's device", admin.DeliveryEntry{}, "device state"},
		{"pillar's log", admin.LogStatus{}, "id seq"},
		{"pillar entry", admin.PillarEntry{}, "id name home addrs state connected path rtt_ms missing_here missing_there last_seen standing logs_paused " +
			"error error_code error_since error_at next_try trying attempts"},
		{"sync", admin.NewSyncStatus(&overlay.SyncStatus{}), "vector settled peers missing wanted backlog backlog_per_s unreachable forks paused paused_by"},
		{"sync's log", admin.VectorEntry{}, "pillar seq hash"},
		{"sync's settled", admin.SettledEntry{}, "until count digest"},
		{"sync's peer", admin.SyncPeer{}, "id vector_behind last_round totals"},
		{"round", admin.RoundEntry{}, "at result differences fetched sent bytes_sent bytes_received record_bytes round_trips took_ms error"},
		{"totals", admin.RoundTotals{}, "rounds equal failed differences fetched sent bytes_sent bytes_received"},
		{"round's answer", admin.RoundAnswer{}, "fetched sent bytes took_ms result differences"},
		{"convergence", admin.ConvergenceEntry{}, "pillar settled_until count digest equal age_ms agreement compared unequal since key full"},
		{"links", admin.LinksAnswer{}, "at took_ms pillars links"},
		{"links' pillar", admin.LinksPillar{}, "pillar answered links"},
		{"link", admin.LinkEntry{}, "a b word path through transport rtt_ms since as_a as_b"},
		{"link of one end", admin.LinkSide{}, "path through transport rtt_ms since"},
		{"drain", admin.DrainAnswer{}, "draining nodes_connected"},
		{"leave", admin.LeaveAnswer{}, "left"},
		{"revoked", admin.Revoked{}, "pillar serial"},
		{"node's pillar entry", admin.NodePillarEntry{}, "id name home addrs state connected active standby path rtt_ms last_seen " +
			"error error_code error_since error_at next_try trying attempts"},
		{"address of an error", overlay.AddrTrouble{}, "addr transport fault error"},
		{"nodes", admin.NodePage{}, "nodes next"},
		{"node entry", overlay.NodeEntry{}, "account name devices"},
		{"device entry", overlay.DeviceEntry{}, "device online pillars last_seen"},
		{"check", admin.Check{}, "name ok detail"},
		{"node status", overlay.NodeStatus{}, "account device name network pillar standby pillars_known nodes_known reachability outbox inbox " +
			"failovers last_failover_ms clock_skew_ms"},
		{"outbox counts", overlay.OutboxCounts{}, "queued stored replicated"},
		{"inbox counts", overlay.InboxCounts{}, "total unacked"},
		{"sent", admin.NewSendResult(&out), "id handle state reason copies expires devices_missing"},
		{"out message", out, "handle id to state reason sent expires copies devices_missing recipients order"},
		{"recipient", out.Recipients[0], "account state at reason"},
		{"in message, text", overlay.InMessage{Text: &text}, "id from from_contact from_claims to sent received text path gap acked order"},
		{"in message, bytes", overlay.InMessage{Body: []byte{}}, "id from from_contact from_claims to sent received body_base64 path gap acked order"},
		{"netcheck", overlay.Netcheck{}, "at took_ms mapping filtering reachability hole_punching why public pillars contacts warnings"},
		{"netcheck's address", overlay.SeenAddr{}, "transport addr by"},
		{"netcheck's pillar", overlay.NetcheckPillar{}, "id name path reserved transports"},
		{"netcheck's attempt", overlay.NetcheckTransport{}, "transport addr ok rtt_ms error"},
		{"netcheck's contact", overlay.NetcheckContact{}, "account name device path rtt_ms since why"},
		{"contact", overlay.Contact{}, "name account blocked verified"},
	}
	for _, tt := range tests {
		b, err := json.Marshal(tt.value)
		var got map[string]any
		if err == nil {
			err = json.Unmarshal(b, &got)
		}
		want := strings.Fields(tt.keys)
		slices.Sort(want)
		if keys := slices.Sorted(maps.Keys(got)); err != nil || !slices.Equal(keys, want) {
			t.Errorf("%s: %v, want %v (%v)", tt.name, keys, want, err)
		}
	}
	entry := admin.NewPillarEntry(&overlay.PillarStatus{LastSeen: time.Now().In(time.FixedZone("", 3600))})
	if b, err := json.Marshal(entry); err != nil || !strings.Contains(string(b), `Z"`) || !strings.Contains(string(b), `"addrs":[]`) {
		t.Errorf("%s, %v", b, err)
	}
}
