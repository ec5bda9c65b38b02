// Package admin is every HTTP surface: a pillar's admin port, a node's local
// API, and the Go client of both. It is not the domain: it turns requests into
// calls of the small interfaces Pillar and Node and their answers into JSON,
// and decides who may ask.
//
// Serving:
//
//	token, err := admin.LoadOrCreateToken(filepath.Join(dir, "api.token"))
//	ln, err := admin.Listen("unix:" + filepath.Join(dir, "api.sock"))
//	h := admin.NewNodeHandler(node, admin.Config{Token: token, Logger: log})
//	err = admin.Serve(ctx, ln, h, log) // until ctx ends
//
// Asking:
//
//	c, err := admin.NewNodeClient(admin.Target{Addr: "unix:/…/api.sock"})
//	sent, err := c.Send(ctx, admin.SendRequest{To: []string{"bob"}, Text: &text})
//
// # Who may ask
//
// A Unix socket has mode 0600 and that is its whole protection. On TCP:
//
//   - The Host header must name this server (localhost, a loopback address on a
//     loopback connection, the address that was dialled, or a name it was
//     configured with), else 421: a web page whose name was rebound to
//     127.0.0.1 gets nothing.
//   - Requests that a browser marks as coming from another site are refused
//     with 403.
//   - Authorization: Bearer with the token is needed for everything at a node,
//     and for everything but reads over loopback at a pillar.
//
// A browser has no token. Front serves a process's pages to one browser on a
// loopback port of its own: a link that works once gives it a cookie that no
// script reads and no other site sends, and Front has the token.
//
// What is changed at a pillar is written to its audit log: ActionLog.
//
// Bodies, header sizes, durations and the number of requests served at once
// are bounded.
package admin
