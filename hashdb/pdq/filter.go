package pdq

import "image"

// The filter is Jarosz's: a box along rows, a box along columns, and both once
// more, thinned to 64×64. The reference keeps a running float32 sum per row and per
// column; the order of its additions and subtractions is kept here, since the
// last bit depends on it. Rows stream through all four boxes, so that memory
// grows with the window and not with the picture, and of the second pair only
// what the thinning takes is divided and stored.
//
// A box of width w over n values: output o is the mean of values
// max(0, o+half-w) to min(n, o+half) with half = (w+2)/2. The sum first grows to w
// values, then gains one and loses one per output, then shrinks.

// window returns the width of the box for a dimension of n.
func window(n int) int { return (n + 127) / 128 }

func halfOf(w int) int { return (w + 2) / 2 }

// centres fills list with the positions that stand for n values in 64.
func centres(list *[side]int, n int) {
	for i := range list {
		list[i] = (2*i + 1) * n / (2 * side)
	}
}

// filter leaves the thinned picture in h.small.
func (h *Hasher) filter(img image.Image, cols, rows int) {
	h.luma = resize(h.luma, cols)
	source := newLuma(img, &h.palette)
	if cols == side && rows == side {
		for y := 0; y < rows; y += lanes {
			source.read(h.luma, h.xs, h.ys[y:y+lanes])
			for lane := range lanes {
				for x := range side {
					h.small[y+lane][x] = h.luma[x][lane]
				}
			}
		}
		return
	}

	wr, wc := window(cols), window(rows)
	centres(&h.sampleCols, cols)
	centres(&h.sampleRows, rows)
	h.once.start(cols, wc)
	h.twice.start(side, wc)
	h.blurred = resize(h.blurred, cols)

	blurred := 0 // rows that left the first box along columns
	through := 0 // rows that left the second
	next := 0    // row of h.small to fill
	sample := func(n int) {
		boxRowsSampled(&h.sampled, h.blurred, &h.sampleCols, wr)
		var slots [lanes][]float32
		h.twice.slots(&slots)
		for lane := range n {
			for i := range side {
				slots[lane][i] = h.sampled[i][lane]
			}
		}
		for range n {
			if !h.twice.push() {
				continue
			}
			for ; next < side && h.sampleRows[next] == through; next++ {
				h.twice.mean(h.small[next][:])
			}
			through++
		}
	}

	for y := 0; y < rows; y += lanes {
		n := min(lanes, rows-y)
		source.read(h.luma, h.xs, h.ys[y:y+n])
		var slots [lanes][]float32
		h.once.slots(&slots)
		boxRows(&slots, h.luma, wr)
		for range n {
			if !h.once.pushMean(h.blurred, blurred%lanes) {
				continue
			}
			if blurred++; blurred%lanes == 0 {
				sample(lanes)
			}
		}
	}
	for h.once.shrinkMean(h.blurred, blurred%lanes) {
		if blurred++; blurred%lanes == 0 {
			sample(lanes)
		}
	}
	if rest := blurred % lanes; rest > 0 {
		sample(rest)
	}
	for h.twice.shrink() {
		for ; next < side && h.sampleRows[next] == through; next++ {
			h.twice.mean(h.small[next][:])
		}
		through++
	}
}

// boxRows runs a box of width w along the four rows in src and writes each to its own slice.
func boxRows(dst *[lanes][]float32, src []quad, w int) {
	n := len(src)
	d0, d1, d2, d3 := dst[0][:n], dst[1][:n], dst[2][:n], dst[3][:n]
	half := halfOf(w)
	var s quad
	for i := range w {
		for lane, v := range src[i] {
			s[lane] += v
		}
		if o := i - half + 1; o >= 0 {
			div := float32(i + 1)
			d0[o], d1[o], d2[o], d3[o] = s[0]/div, s[1]/div, s[2]/div, s[3]/div
		}
	}

	from := w - half + 1
	count := n - w
	right, left := src[w:], src[:count]
	o0, o1, o2, o3 := d0[from:], d1[from:], d2[from:], d3[from:]
	left, o0, o1, o2, o3 = left[:len(right)], o0[:len(right)], o1[:len(right)], o2[:len(right)], o3[:len(right)]
	div := float32(w)
	s0, s1, s2, s3 := s[0], s[1], s[2], s[3]
	if w&(w-1) == 0 {
		inv := 1 / div // exact, and so is its product
		for i := range right {
			r, l := &right[i], &left[i]
			s0 += r[0]
			s1 += r[1]
			s2 += r[2]
			s3 += r[3]
			s0 -= l[0]
			s1 -= l[1]
			s2 -= l[2]
			s3 -= l[3]
			o0[i] = float32(s0 * inv)
			o1[i] = float32(s1 * inv)
			o2[i] = float32(s2 * inv)
			o3[i] = float32(s3 * inv)
		}
	} else {
		for i := range right {
			r, l := &right[i], &left[i]
			s0 += r[0]
			s1 += r[1]
			s2 += r[2]
			s3 += r[3]
			s0 -= l[0]
			s1 -= l[1]
			s2 -= l[2]
			s3 -= l[3]
			o0[i] = s0 / div
			o1[i] = s1 / div
			o2[i] = s2 / div
			o3[i] = s3 / div
		}
	}

	for o := from + count; o < n; o++ {
		l := &src[o+half-w-1]
		s0 -= l[0]
		s1 -= l[1]
		s2 -= l[2]
		s3 -= l[3]
		div := float32(n - (o + half - w))
		d0[o], d1[o], d2[o], d3[o] = s0/div, s1/div, s2/div, s3/div
	}
}

// boxRowsSampled runs a box of width w along the four rows in src and keeps the outputs at the given columns.
func boxRowsSampled(dst *[side]quad, src []quad, at *[side]int, w int) {
	n, half := len(src), halfOf(w)
	var s0, s1, s2, s3 float32
	right, left := 0, 0
	for k, o := range at {
		end := min(o+half, n)
		start := max(o+half-w, 0)
		for ; right < min(end, w); right++ {
			r := &src[right]
			s0 += r[0]
			s1 += r[1]
			s2 += r[2]
			s3 += r[3]
		}
		if right < end {
			rs := src[right:end]
			ls := src[left:]
			ls = ls[:len(rs)]
			for i := range rs {
				r, l := &rs[i], &ls[i]
				s0 += r[0]
				s1 += r[1]
				s2 += r[2]
				s3 += r[3]
				s0 -= l[0]
				s1 -= l[1]
				s2 -= l[2]
				s3 -= l[3]
			}
			left += len(rs)
			right = end
		}
		for ; left < start; left++ {
			l := &src[left]
			s0 -= l[0]
			s1 -= l[1]
			s2 -= l[2]
			s3 -= l[3]
		}
		div := float32(right - left)
		dst[k] = quad{s0 / div, s1 / div, s2 / div, s3 / div}
	}
}

// columnBox is a box along columns that takes rows one by one. Rows are first written
// into its slots, up to [lanes] ahead, and then pushed.
type columnBox struct {
	width    int // of a row
	window   int
	ring     []float32 // window+lanes rows
	sums     []float32
	pushed   int // rows added to the sums
	dropped  int // rows taken away again
	trailing int // outputs that follow the last row
}

func (b *columnBox) start(width, window int) {
	b.width, b.window = width, window
	b.ring = resize(b.ring, width*(window+lanes))
	b.sums = resize(b.sums, width)
	clear(b.sums)
	b.pushed, b.dropped = 0, 0
	b.trailing = halfOf(window) - 1
}

// row returns the ring's place for row r.
func (b *columnBox) row(r int) []float32 {
	at := r % (b.window + lanes) * b.width
	return b.ring[at : at+b.width]
}

// slots gives the places of the next rows.
func (b *columnBox) slots(dst *[lanes][]float32) {
	for lane := range dst {
		dst[lane] = b.row(b.pushed + lane)
	}
}

// push takes in the next row and says whether the sums now stand for an output.
func (b *columnBox) push() bool {
	right := b.row(b.pushed)
	sums := b.sums[:len(right)]
	b.pushed++
	if b.pushed <= b.window {
		for j, v := range right {
			sums[j] += v
		}
		return b.pushed >= halfOf(b.window)
	}
	left := b.row(b.dropped)[:len(right)]
	b.dropped++
	for j, v := range right {
		s := sums[j] + v
		sums[j] = s - left[j]
	}
	return true
}

// shrink drops a row after the last push and says whether that is an output, or false where none is left.
func (b *columnBox) shrink() bool {
	if b.trailing == 0 {
		return false
	}
	b.trailing--
	left := b.row(b.dropped)
	b.dropped++
	for j, v := range left {
		b.sums[j] -= v
	}
	return true
}

// mean writes the output that the sums stand for.
func (b *columnBox) mean(dst []float32) {
	div := float32(b.pushed - b.dropped)
	for j, s := range b.sums {
		dst[j] = s / div
	}
}

func (b *columnBox) meanLane(dst []quad, lane int) {
	div := float32(b.pushed - b.dropped)
	for j, s := range b.sums {
		dst[j][lane] = s / div
	}
}

// pushMean is push and, where that is an output, its mean in one lane of dst.
func (b *columnBox) pushMean(dst []quad, lane int) bool {
	if b.pushed < b.window || b.window&(b.window-1) != 0 {
		if !b.push() {
			return false
		}
		b.meanLane(dst, lane)
		return true
	}
	right := b.row(b.pushed)
	left := b.row(b.dropped)[:len(right)]
	sums, dst := b.sums[:len(right)], dst[:len(right)]
	b.pushed++
	b.dropped++
	inv := 1 / float32(b.window)
	lane &= lanes - 1
	for j, v := range right {
		s := sums[j] + v
		s -= left[j]
		sums[j] = s
		dst[j][lane] = float32(s * inv)
	}
	return true
}

func (b *columnBox) shrinkMean(dst []quad, lane int) bool {
	if !b.shrink() {
		return false
	}
	b.meanLane(dst, lane)
	return true
}
