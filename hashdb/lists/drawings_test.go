package lists

import (
	"fmt"
	"image"
	"image/color"
	"iter"
)

// The pictures that everybody sends, as far as a program can draw them. Only integers are used, so that every machine
// draws the same. Coordinates run from 0 to 4095, whatever the size.

const unit = 4096

// drawn is a picture that is computed where it is looked at.
type drawn struct {
	width, height int
	at            func(x, y int) uint32 // 0xRRGGBB
}

func (*drawn) ColorModel() color.Model { return color.NRGBAModel }

func (d *drawn) Bounds() image.Rectangle { return image.Rect(0, 0, d.width, d.height) }

func (d *drawn) At(x, y int) color.Color {
	c := d.at((2*x+1)*unit/(2*d.width), (2*y+1)*unit/(2*d.height))
	return color.NRGBA{uint8(c >> 16), uint8(c >> 8), uint8(c), 0xff}
}

type paint = func(x, y int) uint32

const (
	white  = 0xffffff
	black  = 0
	yellow = 0xffd93b
)

func grey(v int) uint32 {
	v = min(max(v, 0), 255)
	return uint32(v<<16 | v<<8 | v)
}

// ink draws what is in a shape in one colour and the rest in another.
func ink(fore, back uint32, in func(x, y int) bool) paint {
	return func(x, y int) uint32 {
		if in(x, y) {
			return fore
		}
		return back
	}
}

type shape = func(x, y int) bool

func disc(cx, cy, r int) shape {
	return func(x, y int) bool { return (x-cx)*(x-cx)+(y-cy)*(y-cy) <= r*r }
}

func box(x0, y0, x1, y1 int) shape {
	return func(x, y int) bool { return x >= x0 && x < x1 && y >= y0 && y < y1 }
}

func either(shapes ...shape) shape {
	return func(x, y int) bool {
		for _, s := range shapes {
			if s(x, y) {
				return true
			}
		}
		return false
	}
}

func but(s, hole shape) shape { return func(x, y int) bool { return s(x, y) && !hole(x, y) } }

func both(s, t shape) shape { return func(x, y int) bool { return s(x, y) && t(x, y) } }

// polygon takes the coordinates of its corners, x and y in turn.
func polygon(p ...int) shape {
	return func(x, y int) bool {
		in := false
		for i, j := 0, len(p)-2; i < len(p); j, i = i, i+2 {
			if (p[i+1] > y) != (p[j+1] > y) {
				// x < xi + (y-yi)*(xj-xi)/(yj-yi), without the division
				left, dy := (x-p[i])*(p[j+1]-p[i+1]), p[j+1]-p[i+1]
				right := (y - p[i+1]) * (p[j] - p[i])
				if (dy > 0 && left < right) || (dy < 0 && left > right) {
					in = !in
				}
			}
		}
		return in
	}
}

// noise is a pseudo-random number of a place.
func noise(seed, x, y int) uint32 {
	h := uint32(seed)*0x9e3779b1 ^ uint32(x)*0x85ebca6b ^ uint32(y)*0xc2b2ae35
	h ^= h >> 15
	h *= 0x2c1b3c6d
	h ^= h >> 12
	h *= 0x297a2d39
	return h ^ h>>15
}

// code is like a QR code of n modules a side: three finders and noise.
func code(seed, n int) shape {
	finder := func(x, y int) (bool, bool) { // black, inside of one
		for _, at := range [3][2]int{{0, 0}, {n - 7, 0}, {0, n - 7}} {
			dx, dy := x-at[0], y-at[1]
			if dx < -1 || dy < -1 || dx > 7 || dy > 7 {
				continue
			}
			ring := max(max(3-dx, dx-3), max(3-dy, dy-3))
			return ring != 2 && ring != 4, true
		}
		return false, false
	}
	return func(x, y int) bool {
		x, y = x*(n+4)/unit-2, y*(n+4)/unit-2
		if x < 0 || y < 0 || x >= n || y >= n {
			return false
		}
		if dark, is := finder(x, y); is {
			return dark
		}
		return noise(seed, x, y)&1 == 1
	}
}

// page is lines of words within a box, as a page of text looks from afar.
func page(seed, lines int, x0, y0, x1, y1 int) shape {
	return func(x, y int) bool {
		if x < x0 || x >= x1 || y < y0 || y >= y1 {
			return false
		}
		row := (y - y0) * lines * 8 / (y1 - y0)
		line, part := row/8, row%8
		if part < 2 || part > 5 {
			return false
		}
		cell := (x - x0) * lines / (y1 - y0) * 2
		end := 3 + int(noise(seed, line, 99)%5)
		if line%6 == 5 && (x-x0)*8 > (x1-x0)*end {
			return false // the last line of a paragraph
		}
		return noise(seed, cell/2, line)%5 != 0
	}
}

// drawings yields what is drawn, by name.
func drawings() iter.Seq2[string, paint] {
	return func(yield func(string, paint) bool) {
		for _, c := range []struct {
			name  string
			paint uint32
		}{{"white", white}, {"black", black}, {"grey", 0x808080}, {"red", 0xe01b24}, {"green", 0x2ec27e}, {"blue", 0x1c71d8}} {
			if !yield("a_"+c.name+"_picture", func(int, int) uint32 { return c.paint }) {
				return
			}
		}
		ramp := func(f func(x, y int) int) paint { return func(x, y int) uint32 { return grey(f(x, y)) } }
		middle := func(x, y int) int { return ((x-2048)*(x-2048) + (y-2048)*(y-2048)) >> 15 }
		paints := []struct {
			name string
			paint
		}{
			{"a_gradient_to_the_right", ramp(func(x, _ int) int { return x >> 4 })},
			{"a_gradient_downwards", ramp(func(_, y int) int { return y >> 4 })},
			{"a_gradient_across", ramp(func(x, y int) int { return (x + y) >> 5 })},
			{"a_faint_gradient", ramp(func(_, y int) int { return 120 + y>>8 })},
			{"a_vignette", ramp(func(x, y int) int { return 255 - middle(x, y) })},
			{"a_halo", ramp(middle)},
			{"a_sunset_gradient", func(_, y int) uint32 {
				return uint32(255-y>>6)<<16 | uint32(80+(y>>5)%128)<<8 | uint32(y>>4)
			}},
			{"a_gradient_of_two_colours", func(x, y int) uint32 { return uint32(x>>4)<<16 | uint32(y>>4) }},
			{"a_mirrored_gradient", ramp(func(x, _ int) int { return max(x-2048, 2048-x) >> 3 })},
			{"a_zone_plate", ramp(func(x, y int) int {
				d := ((x-2048)*(x-2048) + (y-2048)*(y-2048)) >> 11
				return max(d&511-256, 256-d&511)
			})},
			{"colour_bars", func(x, _ int) uint32 {
				return [...]uint32{0xc0c0c0, 0xc0c000, 0x00c0c0, 0x00c000, 0xc000c0, 0xc00000, 0x0000c0}[x*7/unit]
			}},
			{"colour_bars_of_a_test_chart", func(x, y int) uint32 {
				switch {
				case y < 2730:
					return [...]uint32{0xc0c0c0, 0xc0c000, 0x00c0c0, 0x00c000, 0xc000c0, 0xc00000, 0x0000c0}[x*7/unit]
				case y < 3072:
					return [...]uint32{0x0000c0, 0x131313, 0xc000c0, 0x131313, 0x00c0c0, 0x131313, 0xc0c0c0}[x*7/unit]
				}
				return [...]uint32{0x00214c, white, 0x32006a, 0x131313, 0x090909, 0x131313}[x*6/unit]
			}},
			{"steps_of_grey", ramp(func(x, _ int) int { return x * 11 / unit * 25 })},
			{"steps_of_grey_both_ways", ramp(func(x, y int) int {
				if y < 2048 {
					return x * 11 / unit * 25
				}
				return 250 - x*11/unit*25
			})},
			{"a_picture_frame_around_a_gradient", func(x, y int) uint32 {
				if box(400, 400, 3700, 3700)(x, y) {
					return grey((x + y) >> 5)
				}
				return black
			}},
			{"a_letterboxed_gradient", func(x, y int) uint32 {
				if y < 600 || y >= 3496 {
					return black
				}
				return grey(255 - y>>4)
			}},
			{"a_landscape_of_three_bands", func(x, y int) uint32 {
				switch {
				case y < 1900:
					return 0x87ceeb
				case y < 2300:
					return 0x2f6f8f
				}
				return 0xd9c27a
			}},
		}
		for _, p := range paints {
			if !yield(p.name, p.paint) {
				return
			}
		}
		for _, n := range []int{2, 3, 4, 8, 16, 32} {
			if !yield(fmt.Sprintf("a_checkerboard_of_%d", n), ink(white, black, func(x, y int) bool { return (x*n/unit+y*n/unit)%2 == 0 })) ||
				!yield(fmt.Sprintf("%d_vertical_stripes", n), ink(white, black, func(x, _ int) bool { return x*n/unit%2 == 0 })) ||
				!yield(fmt.Sprintf("%d_horizontal_stripes", n), ink(white, black, func(_, y int) bool { return y*n/unit%2 == 0 })) ||
				!yield(fmt.Sprintf("%d_diagonal_stripes", n), ink(white, black, func(x, y int) bool { return (x+y)*n/(2*unit)%2 == 0 })) {
				return
			}
		}
		for _, n := range []int{8, 16} {
			if !yield(fmt.Sprintf("a_grid_of_%d", n), ink(black, white, func(x, y int) bool { return x*n*8/unit%8 == 0 || y*n*8/unit%8 == 0 })) ||
				!yield(fmt.Sprintf("dots_%d_a_side", n), ink(black, white, func(x, y int) bool {
					cell := unit / n
					return disc(cell/2, cell/2, cell/4)(x%cell, y%cell)
				})) {
				return
			}
		}
		face := disc(2048, 2048, 1700)
		eyes := either(disc(1400, 1500, 230), disc(2700, 1500, 230))
		grin := both(but(disc(2048, 2200, 1050), disc(2048, 2000, 1000)), box(0, 2300, unit, unit))
		bubble := func(x0, y0, x1, y1, tail int) shape { return either(box(x0, y0, x1, y1), disc(tail, y1, 120)) }
		shapes := []struct {
			name string
			in   shape
		}{
			{"a_disc", disc(2048, 2048, 1400)},
			{"a_small_disc", disc(2048, 2048, 500)},
			{"a_ring", but(disc(2048, 2048, 1500), disc(2048, 2048, 1000))},
			{"a_target", either(but(disc(2048, 2048, 1700), disc(2048, 2048, 1250)), disc(2048, 2048, 700))},
			{"a_square", box(1000, 1000, 3096, 3096)},
			{"a_frame", but(box(0, 0, unit, unit), box(300, 300, 3796, 3796))},
			{"a_polaroid_frame", but(box(0, 0, unit, unit), box(300, 300, 3796, 3100))},
			{"two_halves", box(0, 0, 2048, unit)},
			{"two_triangles", func(x, y int) bool { return x > y }},
			{"a_triangle", polygon(2048, 600, 3600, 3400, 496, 3400)},
			{"a_diamond", polygon(2048, 400, 3696, 2048, 2048, 3696, 400, 2048)},
			{"a_hexagon", polygon(1200, 580, 2896, 580, 3744, 2048, 2896, 3516, 1200, 3516, 352, 2048)},
			{"a_star", polygon(2048, 400, 2440, 1580, 3690, 1580, 2690, 2330, 3070, 3520, 2048, 2790, 1026, 3520, 1406, 2330, 406, 1580, 1656, 1580)},
			{"a_heart", either(disc(1400, 1500, 720), disc(2696, 1500, 720), polygon(780, 1860, 2048, 3600, 3316, 1860, 2048, 1300))},
			{"a_crescent", but(disc(2048, 2048, 1500), disc(2700, 1800, 1300))},
			{"a_plus", either(box(1748, 700, 2348, 3396), box(700, 1748, 3396, 2348))},
			{"a_cross", either(polygon(900, 700, 3396, 3196, 3196, 3396, 700, 900), polygon(3196, 700, 3396, 900, 900, 3396, 700, 3196))},
			{"a_minus", box(700, 1748, 3396, 2348)},
			{"a_tick", polygon(600, 2200, 1000, 1800, 1600, 2400, 3200, 900, 3560, 1260, 1600, 3200)},
			{"an_arrow_to_the_right", either(box(500, 1750, 2500, 2350), polygon(2400, 1000, 3600, 2048, 2400, 3100))},
			{"an_arrow_upwards", either(box(1750, 1600, 2350, 3600), polygon(1000, 1700, 2048, 500, 3100, 1700))},
			{"a_play_button", but(disc(2048, 2048, 1500), polygon(1600, 1200, 3000, 2048, 1600, 2896))},
			{"a_pause_button", either(box(1200, 900, 1800, 3200), box(2300, 900, 2900, 3200))},
			{"a_menu", either(box(700, 900, 3396, 1250), box(700, 1850, 3396, 2200), box(700, 2800, 3396, 3150))},
			{"a_magnifier", either(but(disc(1700, 1700, 1100), disc(1700, 1700, 800)), polygon(2350, 2550, 2550, 2350, 3600, 3400, 3400, 3600))},
			{"a_speech_bubble", either(box(500, 700, 3600, 2700), polygon(1000, 2600, 1000, 3500, 1900, 2600))},
			{"a_padlock", either(but(disc(2048, 1700, 950), disc(2048, 1700, 600)), box(900, 1900, 3196, 3500))},
			{"a_battery", either(but(box(500, 1400, 3300, 2700), box(650, 1550, 3150, 2550)), box(3300, 1800, 3550, 2300), box(750, 1650, 2000, 2450))},
			{"a_house", either(polygon(2048, 500, 3700, 2000, 396, 2000), but(box(800, 2000, 3296, 3500), box(1750, 2500, 2350, 3500)))},
			{"an_envelope", but(box(400, 900, 3696, 3196), either(polygon(500, 1000, 2048, 2250, 3596, 1000, 3596, 1150, 2048, 2450, 500, 1150)))},
			{"a_person", either(disc(2048, 1300, 700), both(disc(2048, 3700, 1500), box(0, 2200, unit, 3700)))},
			{"bars_of_a_chart", either(box(600, 2500, 1100, 3600), box(1400, 1800, 1900, 3600), box(2200, 1200, 2700, 3600), box(3000, 600, 3500, 3600))},
			{"signal_strength", either(box(600, 3000, 1000, 3500), box(1300, 2300, 1700, 3500), box(2000, 1600, 2400, 3500), box(2700, 900, 3100, 3500))},
			{"waves_of_wifi", both(either(but(disc(2048, 3200, 2600), disc(2048, 3200, 2250)), but(disc(2048, 3200, 1800), disc(2048, 3200, 1450)), but(disc(2048, 3200, 1000), disc(2048, 3200, 650)), disc(2048, 3200, 250)),
				polygon(2048, 3500, 4400, 200, -304, 200))},
			{"a_crosshair", either(box(2018, 0, 2078, unit), box(0, 2018, unit, 2078), but(disc(2048, 2048, 1200), disc(2048, 2048, 1140)))},
			{"a_smiling_face", but(face, either(eyes, grin))},
			{"a_sad_face", but(face, either(eyes, both(but(disc(2048, 3300, 900), disc(2048, 3420, 860)), box(0, 0, unit, 2900))))},
			{"an_astonished_face", but(face, either(eyes, disc(2048, 2700, 420)))},
			{"a_winking_face", but(face, either(disc(1400, 1500, 230), box(2400, 1450, 3000, 1570), grin))},
			{"a_face_without_words", but(face, either(eyes, box(1350, 2600, 2750, 2760)))},
			{"a_face_with_dark_glasses", but(face, either(box(900, 1250, 1950, 1800), box(2150, 1250, 3200, 1800), box(1900, 1250, 2200, 1350), grin))},
			{"a_thumb", either(box(500, 1900, 1200, 3500), box(1300, 1800, 3300, 3500), polygon(1300, 2000, 2100, 500, 2600, 700, 2300, 1900))},
			{"a_flower", either(disc(2048, 1100, 560), disc(2950, 1750, 560), disc(2600, 2800, 560), disc(1500, 2800, 560), disc(1150, 1750, 560))},
			{"a_sun", either(disc(2048, 2048, 800), polygon(2048, 200, 2200, 1100, 1896, 1100), polygon(2048, 3896, 2200, 2996, 1896, 2996), polygon(200, 2048, 1100, 2200, 1100, 1896), polygon(3896, 2048, 2996, 2200, 2996, 1896))},
			{"a_cloud", either(disc(1300, 2300, 700), disc(2100, 1800, 850), disc(2900, 2300, 650), box(1300, 2300, 2900, 2980))},
			{"a_page_of_text", page(1, 32, 400, 400, 3700, 3700)},
			{"a_page_of_large_text", page(2, 14, 400, 400, 3700, 3700)},
			{"a_page_of_small_text", page(3, 56, 350, 300, 3750, 3800)},
			{"a_page_of_two_columns", either(page(4, 40, 350, 400, 1950, 3700), page(5, 40, 2150, 400, 3750, 3700))},
			{"a_letter", either(page(6, 5, 2500, 400, 3600, 900), page(7, 24, 500, 1300, 3600, 3200), page(8, 3, 500, 3400, 1400, 3700))},
			{"a_receipt", either(page(9, 5, 1500, 300, 2600, 800), page(10, 28, 1000, 1000, 2300, 3300), page(11, 28, 2700, 1000, 3100, 3300))},
			{"a_listing", either(page(12, 30, 400, 300, 1900, 1500), page(13, 30, 800, 1500, 2900, 2900), page(14, 30, 400, 2900, 1500, 3700))},
			{"a_slide", either(page(15, 2, 400, 300, 3300, 900), page(16, 8, 600, 1300, 3000, 3400))},
			{"a_line_of_text_in_the_middle", page(17, 1, 800, 1850, 3300, 2250)},
			{"a_captioned_frame", either(page(18, 1, 500, 200, 3600, 600), page(19, 1, 500, 3500, 3600, 3900), box(0, 800, unit, 3300))},
			{"a_table", func(x, y int) bool {
				return x*5*40/unit%40 == 0 || y*16*12/unit%12 == 0 || page(20, 16, 0, 0, unit, unit)(x, y) && x*5*10/unit%10 < 6 && x*5*10/unit%10 > 1
			}},
			{"a_calendar", func(x, y int) bool {
				if y < 700 {
					return page(21, 1, 1300, 100, 2800, 600)(x, y)
				}
				return x*7*30/unit%30 == 0 || (y-700)*5*25/3396%25 == 0 || disc(90, 90, 60)(x%585, (y-700)%679)
			}},
			{"a_chat", either(bubble(300, 300, 2300, 700, 400), bubble(1800, 900, 3800, 1300, 3700), bubble(300, 1500, 2700, 1900, 400), bubble(2300, 2100, 3800, 2500, 3700), bubble(300, 2700, 1800, 3600, 400))},
			{"a_keyboard", func(x, y int) bool {
				row := (y - 2200) * 4 / 1800
				return y > 2200 && y < 4000 && (y-2200)*40/1800%10 > 1 && ((x+row*150)*100/unit)%10 > 1
			}},
			{"icons_of_a_phone", func(x, y int) bool {
				return y > 300 && (x*4*20/unit)%20 > 4 && (x*4*20/unit)%20 < 16 && ((y-300)*6*20/3796)%20 > 4 && ((y-300)*6*20/3796)%20 < 15
			}},
			{"a_form", either(page(22, 8, 400, 400, 1300, 3700), func(x, y int) bool { return x > 1500 && x < 3700 && (y*9*16/unit)%16 == 0 })},
			{"a_spinner", but(but(disc(2048, 2048, 900), disc(2048, 2048, 700)), box(2048, 0, unit, 2048))},
		}
		for _, s := range shapes {
			if !yield(s.name, ink(black, white, s.in)) || !yield(s.name+"_in_white_on_black", ink(white, black, s.in)) {
				return
			}
		}
		for _, s := range []struct {
			name string
			in   shape
		}{{"a_yellow_smiling_face", either(eyes, grin)}, {"a_yellow_astonished_face", either(eyes, disc(2048, 2700, 420))}} {
			if !yield(s.name, func(x, y int) uint32 {
				switch {
				case s.in(x, y):
					return 0x5a3a00
				case face(x, y):
					return yellow
				}
				return white
			}) {
				return
			}
		}
		for seed, n := range []int{21, 21, 25, 25, 29, 29, 33, 33, 41, 57} {
			if !yield(fmt.Sprintf("code_%d_of_%d_modules", seed, n), ink(black, white, code(seed, n))) {
				return
			}
		}
		for seed, n := range []int{16, 32, 64, 128, 256} {
			if !yield(fmt.Sprintf("noise_%d_a_side", n), func(x, y int) uint32 { return grey(int(noise(seed, x*n/unit, y*n/unit) & 255)) }) {
				return
			}
		}
	}
}

// sizes are in which drawings are made; each drawing in a few of them.
var sizes = [][2]int{
	{64, 64}, {96, 96}, {128, 128}, {200, 150}, {150, 200}, {256, 256}, {320, 240}, {240, 320}, {400, 400}, {360, 202}, {202, 360}, {720, 1280},
}

const sizesEach = 2

// trivialFiles are files that everybody has, by name.
func trivialFiles() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		texts := []struct{ name, text string }{
			{"a_line_feed", "\n"},
			{"a_carriage_return_and_a_line_feed", "\r\n"},
			{"a_space", " "},
			{"a_zero_byte", "\x00"},
			{"the_digit_0", "0"},
			{"the_digit_1", "1"},
			{"a_byte_order_mark", "\ufeff"},
			{"an_empty_JSON_object", "{}"},
			{"an_empty_JSON_array", "[]"},
			{"JSON_null", "null"},
			{"the_word_true", "true"},
			{"the_word_false", "false"},
			{"the_word_test", "test"},
			{"the_word_test_and_a_line_feed", "test\n"},
			{"the_word_hello", "hello"},
			{"hello_world", "hello world"},
			{"an_empty_archive", "PK\x05\x06" + string(make([]byte, 18))},
			{"a_transparent_pixel", "GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"},
			{"another_transparent_pixel", "GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"},
		}
		for _, t := range texts {
			if !yield(t.name, []byte(t.text)) {
				return
			}
		}
		for _, n := range []int{512, 1024, 4096, 10240, 65536, 1 << 20} {
			ones := make([]byte, n)
			for i := range ones {
				ones[i] = 0xff
			}
			if !yield(fmt.Sprintf("%d_zero_bytes", n), make([]byte, n)) || !yield(fmt.Sprintf("%d_bytes_of_ones", n), ones) {
				return
			}
		}
	}
}
