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
			source.read(h.luma, h.xs, (*[lanes]int)(h.ys[y:]))
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
	// The first rows come late by so many lanes that each row of the first box's outputs has the
	// lane of the row that completes it.
	late := (1 - halfOf(wc)) & (lanes - 1)
	h.once.start(cols, wc, late)
	h.twice.start(side, wc, 0)
	h.blurred = resize(h.blurred, cols)

	through := 0 // rows that left the second box along columns
	next := 0    // row of h.small to fill
	sample := func(n int) {
		boxRowsSampled((*[side]quad)(h.twice.block()), h.blurred, &h.sampleCols, wr)
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

	blurred := 0 // rows that left the first box along columns
	for y := -late; y < rows; y += lanes {
		var ys [lanes]int
		for lane := range ys { // what is outside of the picture is not pushed
			ys[lane] = h.ys[min(max(y+lane, 0), rows-1)]
		}
		source.read(h.luma, h.xs, &ys)
		boxRows(h.once.block(), h.luma, wr)
		if y >= wc && y+lanes <= rows {
			h.once.pushMeans(h.blurred)
			blurred += lanes
			sample(lanes)
			continue
		}
		for range min(y+lanes, rows) - max(y, 0) {
			if !h.once.push() {
				continue
			}
			h.once.meanLane(h.blurred, blurred%lanes)
			if blurred++; blurred%lanes == 0 {
				sample(lanes)
			}
		}
	}
	for h.once.shrink() {
		h.once.meanLane(h.blurred, blurred%lanes)
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

// boxRows runs a box of width w along the four rows in src.
func boxRows(dst, src []quad, w int) {
	n := len(src)
	dst = dst[:n]
	half := halfOf(w)
	var s quad
	for i := range w {
		for lane, v := range src[i] {
			s[lane] += v
		}
		if o := i - half + 1; o >= 0 {
			div := float32(i + 1)
			dst[o] = quad{s[0] / div, s[1] / div, s[2] / div, s[3] / div}
		}
	}

	from := w - half + 1
	count := n - w
	right, left, out := src[w:], src[:count], dst[from:from+count]
	left, out = left[:len(right)], out[:len(right)]
	div := float32(w)
	s0, s1, s2, s3 := s[0], s[1], s[2], s[3]
	if w&(w-1) == 0 {
		inv := 1 / div // exact, and so is its product
		for i := range right {
			r, l, o := &right[i], &left[i], &out[i]
			s0 += r[0]
			s1 += r[1]
			s2 += r[2]
			s3 += r[3]
			s0 -= l[0]
			s1 -= l[1]
			s2 -= l[2]
			s3 -= l[3]
			o[0], o[1], o[2], o[3] = float32(s0*inv), float32(s1*inv), float32(s2*inv), float32(s3*inv)
		}
	} else {
		for i := range right {
			r, l, o := &right[i], &left[i], &out[i]
			s0 += r[0]
			s1 += r[1]
			s2 += r[2]
			s3 += r[3]
			s0 -= l[0]
			s1 -= l[1]
			s2 -= l[2]
			s3 -= l[3]
			o[0], o[1], o[2], o[3] = s0/div, s1/div, s2/div, s3/div
		}
	}

	for o := from + count; o < n; o++ {
		l := &src[o+half-w-1]
		s0 -= l[0]
		s1 -= l[1]
		s2 -= l[2]
		s3 -= l[3]
		div := float32(n - (o + half - w))
		dst[o] = quad{s0 / div, s1 / div, s2 / div, s3 / div}
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

// columnBox is a box along columns that takes rows one by one, or a block of [lanes] at once. A block
// is first written into its place and then pushed; of the first one the first lanes may be unused.
type columnBox struct {
	width    int    // of a row
	window   int    // rows that a mean is of
	ring     []quad // blocks
	blocks   int    // that it holds
	sums     []float32
	pushed   int // rows added to the sums, and the lanes not used before them
	dropped  int // rows taken away again, and the same lanes
	lead     int // rows to push until the first output
	trailing int // outputs that follow the last row
}

func (b *columnBox) start(width, window, late int) {
	b.width, b.window = width, window
	b.blocks = (window+lanes-1)/lanes + 1
	b.ring = resize(b.ring, width*b.blocks)
	b.sums = resize(b.sums, width)
	clear(b.sums)
	b.pushed, b.dropped = late, late
	b.lead = halfOf(window) - 1
	b.trailing = halfOf(window) - 1
}

// at returns the block of row r.
func (b *columnBox) at(r int) []quad {
	i := r / lanes % b.blocks * b.width
	return b.ring[i : i+b.width]
}

// block is the place of the rows that are pushed next.
func (b *columnBox) block() []quad { return b.at(b.pushed) }

// push takes in the next row and says whether the sums now stand for an output.
func (b *columnBox) push() bool {
	right, lane := b.at(b.pushed), b.pushed%lanes
	sums := b.sums[:len(right)]
	full := b.pushed-b.dropped == b.window
	b.pushed++
	for j := range right {
		sums[j] += right[j][lane&(lanes-1)]
	}
	if full {
		b.drop()
	}
	if b.lead > 0 {
		b.lead--
		return false
	}
	return true
}

// drop takes the oldest row away from the sums.
func (b *columnBox) drop() {
	left, lane := b.at(b.dropped), b.dropped%lanes
	sums := b.sums[:len(left)]
	b.dropped++
	for j := range left {
		sums[j] -= left[j][lane&(lanes-1)]
	}
}

// shrink drops a row after the last push and says whether that is an output, or false where none is left.
func (b *columnBox) shrink() bool {
	if b.trailing == 0 {
		return false
	}
	b.trailing--
	b.drop()
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
		dst[j][lane&(lanes-1)] = s / div
	}
}

// pushMeans pushes a whole block when the window is full, and writes its outputs.
func (b *columnBox) pushMeans(dst []quad) {
	right := b.at(b.pushed)
	older, newer := b.at(b.dropped)[:len(right)], b.at(b.dropped + lanes - 1)[:len(right)]
	sums, dst := b.sums[:len(right)], dst[:len(right)]
	first := b.dropped % lanes
	b.pushed += lanes
	b.dropped += lanes
	div := float32(b.window)
	inv := 1 / div
	exact := b.window&(b.window-1) == 0 // then division is multiplication
	if exact && first == 0 {
		for j := range right {
			r, l, d, s := &right[j], &older[j], &dst[j], sums[j]
			s += r[0]
			s -= l[0]
			d[0] = float32(s * inv)
			s += r[1]
			s -= l[1]
			d[1] = float32(s * inv)
			s += r[2]
			s -= l[2]
			d[2] = float32(s * inv)
			s += r[3]
			s -= l[3]
			d[3] = float32(s * inv)
			sums[j] = s
		}
		return
	}
	for j := range right {
		r, a, b, d, s := &right[j], &older[j], &newer[j], &dst[j], sums[j]
		var l0, l1, l2, l3 float32
		switch first {
		case 0:
			l0, l1, l2, l3 = a[0], a[1], a[2], a[3]
		case 1:
			l0, l1, l2, l3 = a[1], a[2], a[3], b[0]
		case 2:
			l0, l1, l2, l3 = a[2], a[3], b[0], b[1]
		default:
			l0, l1, l2, l3 = a[3], b[0], b[1], b[2]
		}
		s0 := s + r[0]
		s0 -= l0
		s1 := s0 + r[1]
		s1 -= l1
		s2 := s1 + r[2]
		s2 -= l2
		s3 := s2 + r[3]
		s3 -= l3
		sums[j] = s3
		if exact {
			d[0], d[1], d[2], d[3] = float32(s0*inv), float32(s1*inv), float32(s2*inv), float32(s3*inv)
		} else {
			d[0], d[1], d[2], d[3] = s0/div, s1/div, s2/div, s3/div
		}
	}
}
