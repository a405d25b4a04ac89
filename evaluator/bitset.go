package evaluator

import (
	"iter"
	"math/bits"
)

// bitset is a set of small numbers, of which it can hold a fixed number.
type bitset []uint64

func newBitset(size int) bitset { return make(bitset, (size+63)/64) }

// newFullBitset holds all numbers below size.
func newFullBitset(size int) bitset {
	b := newBitset(size)
	for i := range b {
		b[i] = ^uint64(0)
	}
	if rest := size % 64; rest > 0 {
		b[len(b)-1] = 1<<rest - 1
	}
	return b
}

func (b bitset) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }

func (b bitset) add(i int) { b[i>>6] |= 1 << (i & 63) }

func (b bitset) remove(i int) { b[i>>6] &^= 1 << (i & 63) }

// addAll adds the numbers of another set.
func (b bitset) addAll(other bitset) {
	for i, w := range other {
		b[i] |= w
	}
}

// removeAll removes the numbers of another set.
func (b bitset) removeAll(other bitset) {
	for i, w := range other {
		b[i] &^= w
	}
}

// all yields the numbers in the set, in order.
func (b bitset) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, w := range b {
			for ; w != 0; w &= w - 1 {
				if !yield(i<<6 + bits.TrailingZeros64(w)) {
					return
				}
			}
		}
	}
}

// transpose returns the sets of what holds a number, by number.
func transpose(rows []bitset) []bitset {
	columns := newBitsets(len(rows))
	for i, row := range rows {
		for j := range row.all() {
			columns[j].add(i)
		}
	}
	return columns
}

// newBitsets returns n empty sets of numbers below n.
func newBitsets(n int) []bitset {
	words := (n + 63) / 64
	memory := make([]uint64, n*words)
	sets := make([]bitset, n)
	for i := range sets {
		sets[i] = memory[i*words : (i+1)*words : (i+1)*words]
	}
	return sets
}
