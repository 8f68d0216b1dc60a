package crashfs

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// A PlaceKind says what is pending at a place.
type PlaceKind int

// The kinds of places.
const (
	Sector PlaceKind = iota // 512 bytes of a file
	Size                    // the size of a file
	Name                    // what a name names
)

// String returns the kind in lower case.
func (k PlaceKind) String() string { return [...]string{"sector", "size", "name"}[k] }

// A Place is a piece of state that is not certain to survive, and on which a crash decides apart
// from all others.
type Place struct {
	Kind PlaceKind
	Path string // of the file, or the name itself, from the root without a leading slash
	Off  int64  // of a sector: where it begins in its file, in bytes
	// Versions is how many states the place had since it was durable. Version 0 is the durable one,
	// 1 the oldest pending, Versions the one that a reader sees.
	Versions int

	id   inodeID // the file, or the directory of the name
	node *inode  // and its state
	at   int     // the index in node.sectors or node.entries
}

// String describes the place.
func (p Place) String() string {
	if p.Kind == Sector {
		return fmt.Sprintf("%s %s at %d: %d versions", p.Kind, p.Path, p.Off, p.Versions)
	}
	return fmt.Sprintf("%s %s: %d versions", p.Kind, p.Path, p.Versions)
}

// When returns a number that puts the versions of all places in the order in which they were made.
// version is from 1 to p.Versions.
func (p Place) When(version int) uint64 {
	switch p.Kind {
	case Sector:
		return p.node.sectors[p.at].versions[version-1].change
	case Size:
		return p.node.sizes[version-1].change
	default:
		return p.node.entries[p.at].versions[version-1].change
	}
}

// A Choice says what a crash leaves at a place. The zero Choice is what was durable.
type Choice struct {
	// Version is the version that is there, from 0 to the place's Versions.
	Version int
	// Tear, if not 0, leaves only that many bytes, at most 512, of the version, and after them what
	// was durable. Of sectors only.
	Tear int
	// Garbage, if not 0, is the seed of random bytes that are there, from the first to the last
	// byte in which the newest version differs from what was durable. The other fields mean nothing
	// then. Of sectors only.
	Garbage uint64
}

// A Chooser chooses what a crash leaves: choices[i] at places[i]. The choices come as zeros, which
// is what was durable. The places are in the order in which Pending returns them. A chooser may
// call others and then change what they chose.
//
// Whatever it chooses, no file is lost by a rename: if by the chosen names a file that had a
// durable name and was not removed would have none, it has the name that it has for a reader.
type Chooser func(places []Place, choices []Choice)

// KeepAll is a crash that loses nothing.
func KeepAll(places []Place, choices []Choice) {
	for i := range places {
		choices[i].Version = places[i].Versions
	}
}

// DropAll is a crash that leaves only what was durable.
func DropAll([]Place, []Choice) {}

// DropOne is a crash that leaves everything but what is pending at place i, counted from 0.
func DropOne(i int) Chooser {
	return func(places []Place, choices []Choice) {
		KeepAll(places, choices)
		if i >= 0 && i < len(places) {
			choices[i] = Choice{}
		}
	}
}

// KeepOne is a crash that leaves what was durable, and besides only the newest version at place i,
// counted from 0.
func KeepOne(i int) Chooser {
	return func(places []Place, choices []Choice) {
		if i >= 0 && i < len(places) {
			choices[i].Version = places[i].Versions
		}
	}
}

// Prefix is a crash that leaves the first n of all pending changes in the order in which they were
// made. There are [FS.Changes] of them.
func Prefix(n int) Chooser {
	return func(places []Place, choices []Choice) {
		var all []uint64
		for _, p := range places {
			for v := 1; v <= p.Versions; v++ {
				all = append(all, p.When(v))
			}
		}
		if n <= 0 {
			return
		}
		last := uint64(math.MaxUint64)
		if n < len(all) {
			slices.Sort(all)
			last = all[n-1]
		}
		for i, p := range places {
			for v := p.Versions; v > 0; v-- {
				if p.When(v) <= last {
					choices[i].Version = v
					break
				}
			}
		}
	}
}

// Random is a crash that decides by chance at each place, among everything allowed. How much it
// keeps in all is chance too, so that states with one thing lost or one thing kept are as likely as
// mixtures.
func Random(rng *rand.Rand) Chooser {
	return func(places []Place, choices []Choice) {
		keep := [...]float64{0.02, 0.2, 0.5, 0.8, 0.98}[rng.IntN(5)]
		spoil := [...]float64{0, 0.05, 0.5}[rng.IntN(3)]
		for i, p := range places {
			switch {
			case p.Kind == Sector && rng.Float64() < spoil:
				choices[i] = spoilt(rng, p)
			case rng.Float64() < keep:
				choices[i].Version = p.Versions
				if rng.IntN(4) == 0 {
					choices[i].Version = rng.IntN(p.Versions + 1)
				}
			}
		}
	}
}

// Garbage is a crash that keeps sizes and names, and leaves some sectors garbage and the others as
// they are for a reader.
func Garbage(rng *rand.Rand) Chooser {
	return some(rng, func(Place) Choice { return Choice{Garbage: rng.Uint64() | 1} })
}

// Tear is a crash that keeps sizes and names, and tears some sectors and leaves the others as they
// are for a reader.
func Tear(rng *rand.Rand) Chooser {
	return some(rng, func(p Place) Choice {
		return Choice{Version: 1 + rng.IntN(p.Versions), Tear: 1 + rng.IntN(sectorSize-1)}
	})
}

// some keeps everything but some of the sectors: at least one, often no more.
func some(rng *rand.Rand, spoil func(Place) Choice) Chooser {
	return func(places []Place, choices []Choice) {
		KeepAll(places, choices)
		var sectors []int
		for i, p := range places {
			if p.Kind == Sector {
				sectors = append(sectors, i)
			}
		}
		if len(sectors) == 0 {
			return
		}
		one := sectors[rng.IntN(len(sectors))]
		rate := [...]float64{0, 0.25, 1}[rng.IntN(3)]
		for _, i := range sectors {
			if i == one || rng.Float64() < rate {
				choices[i] = spoil(places[i])
			}
		}
	}
}

func spoilt(rng *rand.Rand, p Place) Choice {
	if rng.IntN(2) == 0 {
		return Choice{Garbage: rng.Uint64() | 1}
	}
	return Choice{Version: 1 + rng.IntN(p.Versions), Tear: 1 + rng.IntN(sectorSize-1)}
}

// Pending returns the places that a crash decides on. They are in a fixed order, the same in a
// clone.
func (f *FS) Pending() []Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	// The places refer to inodes as they are now, so they must not change any more.
	named := f.walk(anyNames)
	n := 0
	for _, v := range named.visits {
		node := f.inodes[v.id]
		node.freeze()
		n += len(node.sectors) + len(node.entries) + 1
	}
	places := make([]Place, 0, n)
	paths := make([]string, len(named.visits))
	for i, v := range named.visits {
		if i > 0 {
			paths[i] = join(paths[v.parent], v.name)
		}
		node := f.inodes[v.id]
		p := Place{Path: paths[i], id: v.id, node: node}
		for at, e := range node.entries {
			if len(e.versions) > 0 {
				p.Kind, p.Path, p.Versions, p.at = Name, join(paths[i], e.name), len(e.versions), at
				places = append(places, p)
			}
		}
		if len(node.sizes) > 0 {
			p.Kind, p.Versions = Size, len(node.sizes)
			places = append(places, p)
		}
		for at := range node.sectors {
			s := &node.sectors[at]
			p.Kind, p.Off, p.Versions, p.at = Sector, int64(s.index)*sectorSize, len(s.versions), at
			places = append(places, p)
		}
	}
	return places
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// Changes returns how many changes are pending, at all places together; see [Prefix].
func (f *FS) Changes() int {
	n := 0
	for _, p := range f.Pending() {
		n += p.Versions
	}
	return n
}

// Crash returns the state after a power cut at this moment, of all that are possible the one that
// choose chooses. All of it is durable. The FS itself does not change: it goes on, and may be
// crashed again. Its handles do not reach the new FS, and its locks, hooks and faults are not
// there. Crash may be called from a hook.
func (f *FS) Crash(choose Chooser) *FS {
	c := f.Clone()
	places := c.Pending()
	choices := make([]Choice, len(places))
	choose(places, choices)

	c.settleNames(places, choices)
	for len(places) > 0 {
		n := 1
		for n < len(places) && places[n].id == places[0].id {
			n++
		}
		if node := places[0].node; !node.dir {
			c.inodes[places[0].id] = node.settle(places[:n], choices[:n])
		}
		places, choices = places[n:], choices[n:]
	}
	c.sweep()
	return c
}

// settleNames makes the names as they were chosen, durable.
func (f *FS) settleNames(places []Place, choices []Choice) {
	var keep *walk
	for i, p := range places {
		if p.Kind != Name {
			continue
		}
		if keep == nil {
			keep = f.survivors() // before any name changes
		}
		e := p.node.entries[p.at]
		id := e.durable
		if v := choices[i].Version; v > 0 {
			id = e.versions[v-1].id
		}
		f.own(p.id).entries[p.at].durable = id
	}
	if keep == nil {
		return // no name is pending
	}
	f.keepNamed(keep)
	for id, n := range f.inodes {
		if !n.dir || !slices.ContainsFunc(n.entries, func(e entry) bool { return len(e.versions) > 0 }) {
			continue
		}
		n = f.own(id)
		for i := range n.entries {
			e := &n.entries[i]
			e.live, e.versions = e.durable, nil
		}
		n.dropEmpty()
	}
	f.oneNamePerDirectory()
}

// oneNamePerDirectory drops every name of a directory but the first: unlike a file, it cannot have
// two.
func (f *FS) oneNamePerDirectory() {
	found := f.walk(liveNames)
	for _, v := range found.visits {
		if !f.inodes[v.id].dir {
			continue
		}
		for i, e := range f.inodes[v.id].entries {
			if e.live == 0 || !f.inodes[e.live].dir {
				continue
			}
			if first := found.of(e.live); first.name != e.name || found.visits[first.parent].id != v.id {
				n := f.own(v.id)
				n.entries[i].live, n.entries[i].durable = 0, 0
			}
		}
	}
}

// settle returns the file as it was chosen, durable.
func (n *inode) settle(places []Place, choices []Choice) *inode {
	c := &inode{perm: n.perm, size: n.durableSize}
	table := slices.Clone(n.durable)
	for i, p := range places {
		switch {
		case p.Kind == Sector:
			s := &n.sectors[p.at]
			table = set(table, s.index, s.settle(get(n.durable, s.index), choices[i]))
		case choices[i].Version > 0:
			c.size = n.sizes[choices[i].Version-1].size
		}
	}
	if end := int(c.size / sectorSize); end < len(table) {
		if rest := c.size % sectorSize; rest > 0 && table[end] != nil {
			var s sector
			copy(s[:rest], table[end][:])
			table[end] = &s
			end++
		}
		table = table[:end]
	}
	c.durableSize, c.reserved = c.size, min(n.reserved, c.size)
	c.live = trim(table)
	c.durable = c.live // shared: neither is owned
	return c
}

// settle returns the sector as it was chosen.
func (p *pendingSector) settle(durable *sector, c Choice) *sector {
	if c.Garbage != 0 {
		return garbage(durable, p.versions[len(p.versions)-1].data, c.Garbage)
	}
	if c.Version == 0 {
		return durable
	}
	s := p.versions[c.Version-1].data
	if c.Tear == 0 || c.Tear == sectorSize {
		return s
	}
	var torn sector
	if durable != nil {
		torn = *durable
	}
	if s == nil {
		s = &zeros
	}
	copy(torn[:c.Tear], s[:])
	return &torn
}

// garbage returns old with random bytes where it differs from new: from the first such byte to the
// last.
func garbage(old, new *sector, seed uint64) *sector {
	if old == nil {
		old = &zeros
	}
	if new == nil {
		new = &zeros
	}
	first, last := 0, sectorSize
	for first < last && old[first] == new[first] {
		first++
	}
	for last > first && old[last-1] == new[last-1] {
		last--
	}
	s := *old
	rng := rand.NewPCG(seed, seed)
	var word [8]byte
	for i := first; i < last; i += copy(s[i:last], word[:]) {
		binary.LittleEndian.PutUint64(word[:], rng.Uint64())
	}
	return &s
}
