package admin

import (
	"net/http"

	"github.com/obelisk-network/obelisk/overlay"
)

var (
	pageParams = []parameter{{"after", "the next of the page before", false}, {"limit", "at most so many, 1 to 1000; default 100", false}}
	pairParams = []parameter{{"peer", "a pillar's ID", true}, {"of", "the other pillar; default: the one that is asked", false}}
)

// pillarOps describe the admin port of a pillar.
var pillarOps = []operation{
	{method: "GET", path: "/{$}", summary: "The dashboard", media: "text/html", open: true},
	{method: "GET", path: "/fragments/overview", summary: "The dashboard's sections", media: "text/html", open: true},
	{method: "GET", path: "/search", summary: "Leads to a record or a pillar", query: []parameter{{"q", "a record ID, or a pillar's ID or name", true}}, media: "text/html", open: true},
	{method: "GET", path: "/pillar/{id}", summary: "The page of a pillar", media: "text/html", open: true,
		query: []parameter{{"of", "whom it is compared with; default: the one that is asked", false}, {"diff", "1 lists differences", false}, {"after", "the next of the list before", false}}},
	{method: "POST", path: "/pillar/{id}/repair", summary: "The page's button for a repair", query: pairParams[1:], media: "text/html", status: http.StatusSeeOther},
	{method: "POST", path: "/pillar/{id}/round", summary: "The page's button for an audit round", media: "text/html", status: http.StatusSeeOther},
	{method: "POST", path: "/resume", summary: "The page's button that lets audit rounds go on", media: "text/html", status: http.StatusSeeOther},
	{method: "GET", path: "/trace/{id}", summary: "The page of a record", media: "text/html", open: true},
	{method: "GET", path: "/assets/style.css", summary: "The pages' style sheet", media: "text/css", open: true},
	{method: "GET", path: "/assets/live.js", summary: "The script that keeps an open page up to date", media: "text/javascript", open: true},
	{method: "GET", path: "/v1/events", summary: "Server-sent events: member, sync, node, log, drain, links; first what is, then what changes", media: "text/event-stream", open: true},
	{method: "GET", path: "/healthz", summary: "Is the process alive", out: checkList{}, open: true},
	{method: "GET", path: "/readyz", summary: "Should it be given work", out: checkList{}, open: true},
	{method: "GET", path: "/metrics", summary: "Metrics for Prometheus", media: "text/plain", open: true},
	{method: "GET", path: "/debug/pprof/{$}", summary: "The profiles there are", media: "text/plain"},
	{method: "GET", path: "/debug/pprof/{name}", summary: "A profile", media: "application/octet-stream"},
	{method: "GET", path: "/debug/pprof/profile", summary: "A CPU profile", media: "application/octet-stream"},
	{method: "GET", path: "/debug/pprof/trace", summary: "An execution trace", media: "application/octet-stream"},
	{method: "GET", path: "/v1/status", summary: "What this pillar is and holds", out: PillarStatus{}, open: true},
	{method: "GET", path: "/v1/pillars", summary: "The other pillars of the network", out: []PillarEntry{}, open: true},
	{method: "POST", path: "/v1/pillars", summary: "Inject a pillar: a multiaddr with /p2p or a join link", in: addrRequest{}, out: addrRequest{}},
	{method: "GET", path: "/v1/nodes", summary: "Accounts and their devices", query: pageParams, out: NodePage{}, open: true},
	{method: "POST", path: "/v1/accounts", summary: "Let an account register where registration is closed", in: accountRequest{}, out: accountRequest{}},
	{method: "GET", path: "/v1/sync", summary: "What is held of each log, what is missing, and the last audit rounds", out: SyncStatus{}, open: true},
	{method: "GET", path: "/v1/sync/diff", summary: "What two pillars hold differently and why; nothing is moved",
		query: append(pairParams[:2:2], parameter{"after", "the next of the page before", false}), out: DiffAnswer{}, open: true},
	{method: "POST", path: "/v1/sync/repair", summary: "Exchange what two pillars hold differently", query: pairParams, out: RepairAnswer{}},
	{method: "POST", path: "/v1/sync/round", summary: "Do an audit round with a pillar now", query: pairParams[:1], out: RoundAnswer{}},
	{method: "POST", path: "/v1/sync/pause", summary: "Begin no audit rounds", out: pausedAnswer{}},
	{method: "POST", path: "/v1/sync/resume", summary: "Begin audit rounds again", out: pausedAnswer{}},
	{method: "GET", path: "/v1/convergence", summary: "The last signed summary of every pillar, compared", out: []ConvergenceEntry{}, open: true},
	{method: "GET", path: "/v1/records/{id}", summary: "What is known of a record held here, never its body", out: RecordEntry{}, open: true},
	{method: "GET", path: "/v1/trace/{id}", summary: "What every pillar says of a record", out: []TraceEntry{}, open: true},
	{method: "GET", path: "/v1/links", summary: "Who is connected to whom, as every pillar says that answers within two seconds; a few seconds old at most", out: LinksAnswer{}, open: true},
	{method: "POST", path: "/v1/bundles", summary: "Write all that is held into a file in the data directory", out: BundleAnswer{}},
	{method: "POST", path: "/v1/bundles/import", summary: "Take what is in a file of the bundle directory", in: bundleRequest{}, out: BundleAnswer{}},
	{method: "POST", path: "/v1/drain", summary: "Move nodes to other pillars", query: []parameter{{"off", "1 ends it", false}}, out: DrainAnswer{}},
	{method: "POST", path: "/v1/leave", summary: "Leave the network for good", out: LeaveAnswer{}},
	{method: "POST", path: "/v1/revocations", summary: "Take a revocation and spread it", in: revocationRequest{}, out: Revoked{}},
}

// nodeOps describe the local API of a node.
var nodeOps = []operation{
	{method: "GET", path: "/{$}", summary: "The page", media: "text/html"},
	{method: "GET", path: "/netcheck", summary: "The page of a netcheck", media: "text/html"},
	{method: "GET", path: "/assets/style.css", summary: "The pages' style sheet", media: "text/css"},
	{method: "GET", path: "/v1/status", summary: "What this node is doing", out: overlay.NodeStatus{}},
	{method: "POST", path: "/v1/messages", summary: "Send a message", in: SendRequest{}, out: SendResult{}},
	{method: "GET", path: "/v1/messages", summary: "Messages received or sent, oldest first: an InboxPage or an OutboxPage",
		query: append(pageParams[:2:2], parameter{"direction", "in or out", true}, parameter{"unacked", "true: received and not acknowledged", false}), out: InboxPage{}},
	{method: "GET", path: "/v1/messages/{id}", summary: "A message, by record ID or handle", out: directedOut{}},
	{method: "POST", path: "/v1/messages/{id}/ack", summary: "The app has this message", out: ackAnswer{}},
	{method: "GET", path: "/v1/nodes", summary: "Accounts and their devices", query: pageParams, out: NodePage{}},
	{method: "GET", path: "/v1/pillars", summary: "The pillars this node knows", out: []NodePillarEntry{}},
	{method: "POST", path: "/v1/pillars", summary: "Tell it of a pillar: a multiaddr with /p2p or a join link", in: addrRequest{}, out: addrRequest{}},
	{method: "GET", path: "/v1/convergence", summary: "What every pillar says it holds, checked by this node", out: []ConvergenceEntry{}},
	{method: "GET", path: "/v1/netcheck", summary: "How this node reaches others and is reached; takes some seconds", out: overlay.Netcheck{}},
	{method: "GET", path: "/v1/contacts", summary: "The local contacts", out: []overlay.Contact{}},
	{method: "POST", path: "/v1/contacts", summary: "Add a contact", in: ContactRequest{}, out: overlay.Contact{}, status: http.StatusCreated},
	{method: "PATCH", path: "/v1/contacts/{name}", summary: "Rename, block or verify a contact", in: ContactRequest{}, out: overlay.Contact{}},
	{method: "DELETE", path: "/v1/contacts/{name}", summary: "Remove a contact", status: http.StatusNoContent},
	{method: "GET", path: "/v1/events", summary: "Server-sent events: message, state, failover, path; resync where some are missing", media: "text/event-stream"},
}
