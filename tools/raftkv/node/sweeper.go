package node

// sweeper frees what compactions have made unreachable, in a goroutine of its own, so that no
// request waits for it.
type sweeper struct{ signal chan struct{} }

func (s *sweeper) init() { s.signal = make(chan struct{}, 1) }

// wake says that there was a compaction.
func (s *sweeper) wake() {
	select {
	case s.signal <- struct{}{}:
	default: // it has been told already, and has not begun
	}
}

func (s *sweeper) run(n *Node) {
	defer n.background.Done()
	for {
		select {
		case <-s.signal:
			n.store.Sweep(n.stop)
		case <-n.stop:
			return
		}
	}
}
