package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/obelisk-network/obelisk/overlay"
)

func newNetcheck(a *app) *cobra.Command {
	var t target
	return t.register(&cobra.Command{
		Use: "netcheck", Short: "Find out how the running node reaches others and is reached",
		Long: `Find out how the running node reaches others and is reached: what kind of NAT it
is behind, at which addresses pillars see it, which transports reach which
pillar, and how contacts are reached. It takes some seconds. docs/nat.md explains
the words, and what to do about warnings.`,
		Args: cobra.NoArgs,
		RunE: a.act(func(cmd *cobra.Command, _ []string) error {
			r, err := t.find("")
			if err != nil {
				return err
			}
			if r.node == nil {
				return usage("netcheck needs a node, and this is a pillar: say which with --data, or look at `obelisk pillars`")
			}
			c, err := r.node.Netcheck(cmd.Context())
			if err != nil {
				return err
			}
			if t.json {
				return printJSON(a.out, c)
			}
			return a.printNetcheck(&c)
		}),
	})
}

func (a *app) printNetcheck(c *overlay.Netcheck) error {
	w := newTable(a.out)
	w.pair("NAT", overlay.NATKind(c.Mapping, c.Filtering))
	w.pair("mapping", c.Mapping.Words())
	w.pair("filtering", c.Filtering.Words())
	w.pair("reachable", c.Reachability)
	w.pair("hole punching", c.HolePunching+": "+c.Why)
	for _, s := range c.Public {
		w.pair("seen at", fmt.Sprintf("%s by %s", s.Addr, s.By))
	}
	if err := w.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	w = newTable(a.out, "PILLAR", "NAME", "PATH", "RELAYS", "TRANSPORT", "RTT", "ADDRESS")
	for _, p := range c.Pillars {
		head := []string{p.ID.String(), orDash(p.Name), orDash(string(p.Path)), yes(p.Reserved)}
		if len(p.Transports) == 0 {
			w.row(append(head, "-", "-", "-")...)
		}
		for i, x := range p.Transports {
			if i > 0 {
				head = []string{"", "", "", ""}
			}
			rtt := millis(x.RTTMS)
			at := x.Addr
			if !x.OK {
				rtt, at = "fails", x.Addr+": "+x.Error
			}
			w.row(append(head, x.Transport, rtt, at)...)
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	if len(c.Contacts) > 0 {
		fmt.Fprintln(a.out)
		w = newTable(a.out, "CONTACT", "DEVICE", "PATH", "RTT", "SINCE", "WHY")
		for _, x := range c.Contacts {
			name := x.Name
			if name == "" {
				name = x.Account.String()
			}
			w.row(name, x.Device.String(), orDash(string(x.Path)), millis(x.RTTMS), whenPtr(x.Since), orDash(x.Why))
		}
		if err := w.flush(); err != nil {
			return err
		}
	}
	for _, text := range c.Warnings {
		fmt.Fprintf(a.out, "\nWARNING: %s\n", escape(strings.TrimSpace(text)))
	}
	return nil
}
