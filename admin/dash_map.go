package admin

import (
	"fmt"
	"math"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// The map is a square of mapSize; this pillar stands in its middle and the
// others around it. Its own connections are spokes, those between others arcs.
const (
	mapSize   = 400
	mapRadius = 138
	// From mapCrowd pillars on, names stand outside the circle, which is smaller
	// to have room for them, and from mapWheel on they stand along its rays.
	mapCrowd       = 9
	mapWheel       = 15
	mapCrowdRadius = 116
	mapDense       = 24
	// maxMap bounds the pillars on the map; all are in the table.
	maxMap = 48
	// mapLabels is up to how many pillars the spokes carry their round-trip time.
	mapLabels = 12
	// mapHub is how near arcs come to the middle, as a part of the radius: spokes
	// and this pillar's name are there.
	mapHub = 0.32
)

type mapView struct {
	Self   mapNode
	Nodes  []mapNode
	Spokes []mapSpoke
	Crowd  bool
	Wheel  bool // names stand along the rays, and edges are thin
	Dense  bool // there are so many arcs that they are a texture
	More   int
}

// mapNode is a pillar on the map. Its number is what spokes and arcs name it by.
type mapNode struct {
	pillarName
	Number    int
	X, Y      float64
	angle     float64
	TextX     float64
	TextY     float64
	Turn      float64 // of the text, in degrees
	Anchor    string  // start, middle or end
	Label     string  // as much of its name as there is room for
	Connected bool
	Alert     bool
	State     overlay.PillarState
	Say       string // its connections in a few words
}

// mapSpoke is a connection of this pillar.
type mapSpoke struct {
	To             int
	X1, Y1, X2, Y2 float64
	Relayed        bool
	RTT            string // to be shown; ""
	TextX, TextY   float64
	Say            string
}

// mapArc is a connection between two others, or one with this pillar that only
// the other knows of.
type mapArc struct {
	A, B  int
	Path  string // of SVG
	Class string
	Say   string
}

// newMap places the pillars and draws this one's connections, as it sees them
// itself now. What pillars said comes by newArcs.
func newMap(self pillarName, pillars []pillarRow) mapView {
	v := mapView{Self: mapNode{pillarName: self, X: mapSize / 2, Y: mapSize / 2,
		TextX: mapSize / 2, TextY: mapSize/2 + 34, Anchor: "middle", Label: cutText(self.Text, 14), Connected: true}}
	shown := pillars
	if len(shown) > maxMap {
		shown, v.More = shown[:maxMap], len(shown)-maxMap
	}
	radius := float64(mapRadius)
	if v.Crowd = len(shown) >= mapCrowd; v.Crowd {
		radius = mapCrowdRadius
	}
	v.Wheel, v.Dense = len(shown) >= mapWheel, len(shown) >= mapDense
	for i := range shown {
		p := &shown[i]
		angle := 2*math.Pi*float64(i)/float64(len(shown)) - math.Pi/2
		n := mapNode{pillarName: p.Name, Number: i + 1, Connected: p.Connected, Alert: p.Alert, State: p.State}
		n.place(angle, radius, len(shown))
		v.Nodes = append(v.Nodes, n)
		if p.Connected {
			v.Spokes = append(v.Spokes, newSpoke(self, p, &n, len(shown) <= mapLabels, v.Crowd))
		}
	}
	return v
}

// place puts a node and its name where they belong on a circle of so many.
func (n *mapNode) place(angle, radius float64, of int) {
	sin, cos := math.Sincos(angle)
	n.angle = angle
	n.X, n.Y, n.Anchor = round1(mapSize/2+radius*cos), round1(mapSize/2+radius*sin), "middle"
	switch {
	case of >= mapWheel:
		n.TextX, n.TextY, n.Label = round1(mapSize/2+(radius+12)*cos), round1(mapSize/2+(radius+12)*sin), cutText(n.Text, 11)
		n.Turn, n.Anchor = angle*180/math.Pi, "start"
		if cos < -1e-9 {
			n.Turn, n.Anchor = n.Turn+180, "end"
		}
		n.Turn = round1(n.Turn)
	case of >= mapCrowd:
		n.TextX, n.TextY, n.Label = round1(mapSize/2+(radius+15)*cos), round1(mapSize/2+(radius+17)*sin+4), cutText(n.Text, 11)
		switch {
		case cos > 0.2:
			n.Anchor = "start"
		case cos < -0.2:
			n.Anchor = "end"
		}
	default:
		n.TextX, n.TextY, n.Label = n.X, n.Y+27, cutText(n.Text, 14)
		if n.Y < mapSize/2-1 {
			n.TextY = n.Y - 17
		}
	}
}

// tell says of every pillar how many connections it has.
func (v *mapView) tell(s *linkSight) {
	v.Self.Say = s.sumText(v.Self.ID)
	for i := range v.Nodes {
		v.Nodes[i].Say = s.sumText(v.Nodes[i].ID)
	}
}

func newSpoke(self pillarName, p *pillarRow, n *mapNode, label, crowd bool) mapSpoke {
	l := mapSpoke{To: n.Number, X1: mapSize / 2, Y1: mapSize / 2, X2: n.X, Y2: n.Y, Relayed: p.Path == overlay.PathRelayed}
	l.Say = fmt.Sprintf("%s – %s: %s", self.Text, p.Name.Text, p.Path)
	if p.RTTMS > 0 {
		l.Say += ", " + msText(p.RTTMS)
	}
	out := 0.6
	if crowd {
		out = 0.74
	}
	if label && p.RTTMS > 0 {
		if l.RTT = msText(p.RTTMS); p.RTTMS >= 9.95 && p.RTTMS < 100 {
			l.RTT = fmt.Sprintf("%.0f ms", p.RTTMS)
		}
	}
	l.TextX, l.TextY = round1(l.X1+(n.X-l.X1)*out), round1(l.Y1+(n.Y-l.Y1)*out+4)
	return l
}

// newArcs draws what pillars said of their connections. Between this pillar and
// another one there is an arc only if there is no spoke.
func newArcs(v *mapView, s *linkSight, names map[identity.PillarID]pillarName) (arcs []mapArc) {
	if s == nil {
		return nil
	}
	radius := float64(mapRadius)
	if v.Crowd {
		radius = mapCrowdRadius
	}
	at := map[identity.PillarID]int{v.Self.ID: 0}
	for i := range v.Nodes {
		at[v.Nodes[i].ID] = v.Nodes[i].Number
	}
	for i := range s.edges {
		e := &s.edges[i]
		a, okA := at[e.A]
		b, okB := at[e.B]
		if !okA || !okB {
			continue
		}
		if a > b {
			a, b = b, a
		}
		arc := mapArc{A: a, B: b, Class: string(e.Path), Say: edgeText(e, names)}
		if e.Word != overlay.LinkBoth {
			arc.Class += " " + string(e.Word)
		}
		to := &v.Nodes[b-1]
		switch {
		case a > 0:
			arc.Path = arcPath(&v.Nodes[a-1], to, radius)
		case to.Connected:
			continue
		default:
			arc.Path = fmt.Sprintf("M%d %dL%g %g", mapSize/2, mapSize/2, to.X, to.Y)
		}
		arcs = append(arcs, arc)
	}
	return arcs
}

// arcPath leads from one pillar on the circle to another, past the middle.
func arcPath(a, b *mapNode, radius float64) string {
	turn := math.Remainder(b.angle-a.angle, 2*math.Pi)
	along := math.Cos(turn / 2) // how far out the middle of the chord is
	out := mapHub + (1-mapHub)*along
	sin, cos := math.Sincos(a.angle + turn/2)
	r := radius * (2*out - along)
	return fmt.Sprintf("M%g %gQ%g %g %g %g", a.X, a.Y, round1(mapSize/2+r*cos), round1(mapSize/2+r*sin), b.X, b.Y)
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
