package gossip

// WithoutMember makes a Mesh do without memberlist.
func (c *Config) WithoutMember() { c.noMember = true }
