package admin

import (
	"math"
	"strings"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// The map is a square of mapSize; this pillar stands in its middle and the
// others around it.
const (
	mapSize   = 400
	mapRadius = 138
	// From mapCrowd pillars on, names stand outside the circle, which is smaller
	// to have room for them.
	mapCrowd       = 9
	mapCrowdRadius = 116
	// maxMap bounds the pillars on the map; all are in the table.
	maxMap = 48
	// mapLabels is up to how many pillars the lines carry their round-trip time.
	mapLabels = 12
)

type mapView struct {
	Self  mapNode
	Nodes []mapNode
	Lines []mapLine
	Crowd bool
	More  int
}

type mapNode struct {
	pillarName
	X, Y      float64
	TextX     float64
	TextY     float64
	Anchor    string // start, middle or end
	Text      string
	Connected bool
	Alert     bool
	State     overlay.PillarState
}

// mapLine is a connection of this pillar, or one that is known of two others:
// the one relays for the other, which is a home pillar.
type mapLine struct {
	X1, Y1, X2, Y2 float64
	Relayed        bool
	Foreign        bool
	RTT            float64 // ms; 0: none to show
	TextX, TextY   float64
}

func newMap(self pillarName, pillars []pillarRow) mapView {
	v := mapView{Self: mapNode{pillarName: self, X: mapSize / 2, Y: mapSize / 2,
		TextX: mapSize / 2, TextY: mapSize/2 + 34, Anchor: "middle", Text: cutText(self.Text, 14), Connected: true}}
	shown := pillars
	if len(shown) > maxMap {
		shown, v.More = shown[:maxMap], len(shown)-maxMap
	}
	radius := float64(mapRadius)
	if v.Crowd = len(shown) >= mapCrowd; v.Crowd {
		radius = mapCrowdRadius
	}
	at := map[identity.PillarID]int{}
	for i := range shown {
		p := &shown[i]
		sin, cos := math.Sincos(2*math.Pi*float64(i)/float64(len(shown)) - math.Pi/2)
		n := mapNode{pillarName: p.Name, X: round1(mapSize/2 + radius*cos), Y: round1(mapSize/2 + radius*sin),
			Connected: p.Connected, Alert: p.Alert, State: p.State, Anchor: "middle"}
		if v.Crowd {
			n.TextX, n.TextY, n.Text = round1(mapSize/2+(radius+15)*cos), round1(mapSize/2+(radius+17)*sin+4), cutText(p.Name.Text, 11)
			switch {
			case cos > 0.2:
				n.Anchor = "start"
			case cos < -0.2:
				n.Anchor = "end"
			}
		} else {
			n.TextX, n.TextY, n.Text = n.X, n.Y+27, cutText(p.Name.Text, 14)
			if n.Y < mapSize/2-1 {
				n.TextY = n.Y - 17
			}
		}
		at[p.Name.ID] = len(v.Nodes)
		v.Nodes = append(v.Nodes, n)
		if p.Connected {
			l := mapLine{X1: v.Self.X, Y1: v.Self.Y, X2: n.X, Y2: n.Y, Relayed: p.Path == overlay.PathRelayed}
			if len(shown) <= mapLabels {
				l.RTT = p.RTTMS
			}
			l.TextX, l.TextY = round1(v.Self.X+(n.X-v.Self.X)*0.6), round1(v.Self.Y+(n.Y-v.Self.Y)*0.6+4)
			v.Lines = append(v.Lines, l)
		}
	}
	for i := range shown {
		for _, relay := range relaysOf(shown[i].Addrs) {
			if j, ok := at[relay]; ok && j != i {
				v.Lines = append(v.Lines, mapLine{X1: v.Nodes[j].X, Y1: v.Nodes[j].Y, X2: v.Nodes[i].X, Y2: v.Nodes[i].Y, Relayed: true, Foreign: true})
			}
		}
	}
	return v
}

// relaysOf are the pillars that relay for one with these addresses: those before
// /p2p-circuit.
func relaysOf(addrs []string) []identity.PillarID {
	var relays []identity.PillarID
	seen := map[identity.PillarID]bool{}
	for _, a := range addrs {
		through, _, ok := strings.Cut(a, "/p2p-circuit")
		if !ok {
			continue
		}
		id, err := identity.ParsePillar(through[strings.LastIndex(through, "/")+1:])
		if err == nil && !seen[id] {
			seen[id] = true
			relays = append(relays, id)
		}
	}
	return relays
}

func round1(x float64) float64 { return math.Round(x*10) / 10 }

// cutText leaves the first runes of a text that is longer.
func cutText(s string, runes int) string {
	r := []rune(s)
	if len(r) <= runes {
		return s
	}
	return string(r[:runes-1]) + "…"
}
