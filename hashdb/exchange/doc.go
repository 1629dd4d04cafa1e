// Package exchange reads what clearing houses and platforms exchange: their files, and their interfaces over HTTP.
//
// The package keeps nothing: a [lists.Update] is taken by whoever keeps lists.
package exchange
