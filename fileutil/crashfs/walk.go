package crashfs

// A walk is what can be reached from the root, each inode once, directories before what is in them.
type walk struct {
	visits []visit
	seen   map[inodeID]int // the index in visits
	must   []bool          // of survivors: which of the visits
}

// A visit is an inode with the name by which it was reached first.
type visit struct {
	id     inodeID
	parent int // the index of its directory in visits
	name   string
}

func (w *walk) has(id inodeID) bool {
	_, ok := w.seen[id]
	return ok
}

func (w *walk) of(id inodeID) visit { return w.visits[w.seen[id]] }

// Which of the states of a name a walk follows.
type which int

const (
	liveNames which = iota
	durableNames
	anyNames // all that a crash can choose
)

// walk walks the tree. The order depends on the names and their history alone.
func (f *FS) walk(names which) *walk {
	w := &walk{
		visits: make([]visit, 0, len(f.inodes)),
		seen:   make(map[inodeID]int, len(f.inodes)),
	}
	w.visit(visit{id: rootID})
	for i := 0; i < len(w.visits); i++ {
		for _, e := range f.inodes[w.visits[i].id].entries {
			if names != durableNames {
				w.visit(visit{e.live, i, e.name})
			}
			if names != liveNames {
				w.visit(visit{e.durable, i, e.name})
			}
			if names == anyNames {
				for _, v := range e.versions {
					w.visit(visit{v.id, i, e.name})
				}
			}
		}
	}
	return w
}

func (w *walk) visit(v visit) {
	if v.id == 0 || w.has(v.id) {
		return
	}
	w.seen[v.id] = len(w.visits)
	w.visits = append(w.visits, v)
}

// survivors returns the tree as a reader sees it, and in it what must have a name after a crash:
// what has a durable name, and was not removed, for then a reader would not see it.
func (f *FS) survivors() *walk {
	durable := f.walk(durableNames)
	w := f.walk(liveNames)
	w.must = make([]bool, len(w.visits))
	for i, v := range w.visits {
		w.must[i] = durable.has(v.id)
	}
	return w
}

// keepNamed gives a durable name to each survivor that has none: the name that a reader sees, with
// the directories above it. Such a name is never taken away again, for readers see one file under
// it, so this comes to an end.
func (f *FS) keepNamed(keep *walk) {
	for {
		durable := f.walk(durableNames)
		lost := -1
		for i, v := range keep.visits {
			if keep.must[i] && !durable.has(v.id) {
				lost = i
				break
			}
		}
		if lost < 0 {
			return
		}
		for v := keep.visits[lost]; v.id != rootID; v = keep.visits[v.parent] {
			f.own(keep.visits[v.parent].id).syncName(v.name)
		}
	}
}
