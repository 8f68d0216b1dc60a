package disk

import "sync"

// A Kind is what was done to a disk.
type Kind uint8

// The kinds of an Op.
const (
	Write Kind = iota
	Zero       // of a range, by a discard or a request to write zeros
	Flush      // of what was written before
)

// An Op is one thing that was done to a disk.
type Op struct {
	Kind Kind
	Off  int64  // of a write and a zero, in bytes
	Len  int64  // of the range
	Data []byte // of a write, Len bytes; must not be changed
}

// A Trace is what was done to a disk that held Base, in the order in which the disk did it. A
// position in it is how many operations were done before.
type Trace struct {
	Base *Image
	Ops  []Op
}

// A Fault is asked before each write and flush of a Disk, with the position in the trace. If it
// returns an error the disk returns that instead and does nothing; it forgets nothing either. It
// must not call the Disk.
type Fault func(at int, op Op) error

// A Disk holds an Image and writes a Trace. Its methods may be called concurrently.
type Disk struct {
	size int64

	mu    sync.Mutex
	now   *Image
	trace *Trace // nil if nothing is recorded
	fault Fault
	reads int
}

// New returns a Disk of size bytes, all zero, that records nothing.
func New(size int64) *Disk { return &Disk{size: size, now: NewImage(size)} }

// Size returns the size of the disk in bytes.
func (d *Disk) Size() int64 { return d.size }

// Load makes a copy of the image the content of the disk, and ends recording. It must be of the
// disk's size.
func (d *Disk) Load(m *Image) {
	if m.size != d.size {
		panic("disk: an image of another size")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now, d.trace, d.fault, d.reads = m.Clone(), nil, nil, 0
}

// Save returns a copy of the content.
func (d *Disk) Save() *Image {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.Clone()
}

// Record begins a new trace.
func (d *Disk) Record() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trace = &Trace{Base: d.now.Clone()}
}

// Trace ends recording and returns what was recorded; nil if nothing was.
func (d *Disk) Trace() *Trace {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := d.trace
	d.trace = nil
	return t
}

// Position returns the position in the trace that has been reached. What a flush before it covered
// is durable.
func (d *Disk) Position() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.position()
}

func (d *Disk) position() int {
	if d.trace == nil {
		return 0
	}
	return len(d.trace.Ops)
}

// Fail sets the fault; nil is none. Load removes it.
func (d *Disk) Fail(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

// Reads returns how often the disk was read since Load.
func (d *Disk) Reads() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reads
}

// ReadAt is [Image.ReadAt].
func (d *Disk) ReadAt(b []byte, off int64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads++
	return d.now.ReadAt(b, off)
}

// WriteAt writes b at offset off, in the cache of the disk: it is durable with the next Flush. The
// error is that of the Fault.
func (d *Disk) WriteAt(b []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault != nil {
		if err := d.fault(d.position(), Op{Kind: Write, Off: off, Len: int64(len(b)), Data: b}); err != nil {
			return err
		}
	}
	d.now.WriteAt(b, off)
	if d.trace != nil {
		d.trace.Ops = append(d.trace.Ops, Op{Kind: Write, Off: off, Len: int64(len(b)), Data: append([]byte{}, b...)})
	}
	return nil
}

// Zero makes n bytes at offset off zero, as durable as a write.
func (d *Disk) Zero(off, n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now.Zero(off, n)
	if d.trace != nil {
		d.trace.Ops = append(d.trace.Ops, Op{Kind: Zero, Off: off, Len: n})
	}
}

// Flush makes durable what was written before. The error is that of the Fault.
func (d *Disk) Flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault != nil {
		if err := d.fault(d.position(), Op{Kind: Flush}); err != nil {
			return err
		}
	}
	if d.trace != nil {
		d.trace.Ops = append(d.trace.Ops, Op{Kind: Flush})
	}
	return nil
}
