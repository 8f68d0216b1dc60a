package node

import "fmt"

// Failed is closed when the Node has stopped without Stop; Err says why.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Stopped is closed when the Node has stopped or is about to, for whatever reason: it decides
// nothing more.
func (n *Node) Stopped() <-chan struct{} { return n.stop }

// Err returns why the Node stopped without Stop, or nil.
func (n *Node) Err() error {
	select {
	case <-n.failed:
		return n.failure
	default:
		return nil
	}
}

// fail stops the Node, for the first reason it is given. It does not wait.
func (n *Node) fail(err error) {
	n.failOnce.Do(func() {
		n.failure = err
		n.log.Error("the node stops", "error", err)
		close(n.failed)
		// A leader that cannot write must not go on leading. Nothing needs to be written for
		// another to take over.
		n.inbox.call(func() {
			n.handOver()
			n.halt()
		})
	})
}

func (n *Node) halt() { n.stopOnce.Do(func() { close(n.stop) }) }

// why returns what requests are told that find the Node stopped.
func (n *Node) why() error {
	select {
	case <-n.failed:
		return fmt.Errorf("%w: %w", ErrStopped, n.failure)
	default:
		return ErrStopped
	}
}
