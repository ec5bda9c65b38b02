// Package obelisk runs nodes and pillars of an Obelisk network inside a Go
// program. A node sends and receives end-to-end sealed messages for one account
// through pillars, servers that each hold a copy of everything; it works as
// long as any one of them is up. The obelisk binary is this package and a
// command line.
//
//	node, err := obelisk.OpenNode(ctx, obelisk.NodeConfig{
//		Dir:  "/var/lib/myapp/obelisk",
//		Join: []string{"obelisk://join/…"}, // from whoever runs the network, once
//	})
//	if err != nil {
//		return err
//	}
//	defer node.Close()
//	sent, err := node.Send(ctx, friend, "hello") // on this disk, on its way
//	for m, err := range node.Inbox(ctx) {        // each until it is acknowledged
//		…
//		node.Ack(m.ID)
//	}
//
// A Node or Pillar owns its data directory: one process, one at a time. There
// is no state beside it, so many of both can live in one process. Everything
// started is stopped by Close; Done and Err tell when something stopped by
// itself.
//
// What travels, who checks it and what is guaranteed is package overlay's; the
// names of it that an embedder needs are repeated here.
package obelisk

import (
	"runtime/debug"

	"github.com/obelisk-network/obelisk/admin"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Names of other packages that embedders need.
type (
	AccountID = identity.AccountID
	DeviceID  = identity.DeviceID
	PillarID  = identity.PillarID
	NetworkID = identity.NetworkID
	KeyType   = identity.KeyType
	RecordID  = overlay.RecordID
	Handle    = overlay.Handle

	// Message is a message received, Sent one that was sent.
	Message  = overlay.InMessage
	Sent     = overlay.OutMessage
	Outgoing = overlay.Outgoing
	State    = overlay.State
	BodyType = overlay.BodyType
	Contact  = overlay.Contact
	Event    = overlay.Event

	NodeStatus   = overlay.NodeStatus
	PillarStatus = admin.PillarStatus
	NodeEntry    = overlay.NodeEntry
	Role         = overlay.Role
	Registration = overlay.Registration

	// Error is a refusal with a machine-readable code.
	Error = overlay.Error
	// Code is the reason of an Error.
	Code = overlay.Code
)

// States of a message at its sender; the last three are final.
const (
	Queued     = overlay.StateQueued
	Stored     = overlay.StateStored
	Replicated = overlay.StateReplicated
	Delivered  = overlay.StateDelivered
	Expired    = overlay.StateExpired
	Rejected   = overlay.StateRejected
)

// Values of options.
const (
	RolePillar = overlay.RolePillar
	RoleNode   = overlay.RoleNode

	KeyEd25519 = identity.KeyEd25519
	KeyRSA     = identity.KeyRSA

	RegistrationOpen   = overlay.RegistrationOpen
	RegistrationClosed = overlay.RegistrationClosed

	BodyBytes = overlay.BodyBytes
	BodyText  = overlay.BodyText

	// Off turns off PillarConfig.Admin and NodeConfig.API.
	Off = "off"
)

// ParseAccount reads an account ID from text.
func ParseAccount(s string) (AccountID, error) { return identity.ParseAccount(s) }

// Version is the version of this library as the Go tool recorded it in the
// running program: a tag, or "devel" with the commit if there is one.
func Version() string {
	const module = "github.com/obelisk-network/obelisk"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	if info.Main.Path == module && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return d.Version
		}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && info.Main.Path == module {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
