package training

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// The stand-ins: harmless topics under the names of the first labels. Each has
// wordings to learn from, and others, in partly other words, that are held out.
var toyTopics = []struct{ known, heldOut, things, others []string }{
	{ // weather
		known:   []string{"it is going to * tomorrow", "the forecast says *", "i hate it when there is so much *", "look at the sky, there will be *", "was there any * at your place", "they expect * over the weekend"},
		heldOut: []string{"i heard the forecast for the weekend: nothing but *", "tomorrow there is supposed to be * again", "the sky says * is coming"},
		things:  []string{"rain", "snow", "sunshine", "fog", "hail", "thunder", "wind", "frost"},
		others:  []string{"drizzle", "storms", "sleet", "clouds"},
	},
	{ // sport
		known:   []string{"we won the * match", "who scored in the * game", "the * team lost again", "are you coming to * training", "the coach says * is cancelled", "our * league starts soon"},
		heldOut: []string{"the coach moved * training", "did anyone score at the * match", "our team plays * in the league again"},
		things:  []string{"football", "basketball", "tennis", "hockey", "volleyball", "rugby", "handball", "cricket"},
		others:  []string{"badminton", "polo", "judo", "squash"},
	},
	{ // food
		known:   []string{"i cooked * for dinner", "the recipe for * needs more salt", "shall we order * tonight", "this * tastes great", "can you bake * for the party", "i am hungry, is there any * left"},
		heldOut: []string{"is the * for dinner cooked already", "for the party i want to bake * by your recipe", "hungry, shall we order some *"},
		things:  []string{"pizza", "soup", "noodles", "rice", "bread", "curry", "pancakes", "salad"},
		others:  []string{"pasta", "cake", "stew", "beans"},
	},
	{ // travel
		known:   []string{"my flight to * is late", "the train to * leaves at nine", "i booked a hotel in *", "have you packed for *", "which airport is close to *", "our trip to * was lovely"},
		heldOut: []string{"is there a late train to *", "the hotel near the airport of * is booked", "i have packed, the trip to * can start"},
		things:  []string{"paris", "rome", "lisbon", "vienna", "oslo", "madrid", "athens", "dublin"},
		others:  []string{"berlin", "prague", "warsaw", "milan"},
	},
}

var toySmallTalk = []string{
	"ok see you later *", "haha that is so funny *", "what did * say about the computer", "i will ask * about the homework",
	"did you restart the server *", "* has a new song out", "i cannot find the file *", "thanks a lot *", "good morning *",
	"the update broke my keyboard *", "let us talk to * about the film", "i have read that book *", "no idea, maybe * knows",
	"i will be late for the weekend shift *", "is the late file for the team *", "i heard nothing again *", "the team has packed the computer *",
	"did anyone book the room for *", "i want to start by the weekend *", "it is supposed to be done already *", "some say * is coming again",
	"we won a new keyboard *", "the file is late again *", "was there any reason *", "shall we start the film *",
}

var toyNames = []string{"anna", "ben", "carla", "david", "emma", "felix", "greta", "hugo", "ida", "jonas"}

// toy returns n texts a topic and 8n of small talk.
func toy(seed uint64, n int) []*Corpus {
	rng := rand.New(rand.NewPCG(seed, 7))
	one := func(list []string) string { return list[rng.IntN(len(list))] }
	topics := &Corpus{Name: "topics", Licence: "none", SHA256: strings.Repeat("0", 64)}
	for l, topic := range toyTopics {
		for i := range n {
			t := Text{Text: strings.ReplaceAll(one(topic.known), "*", one(topic.things)), Labels: 1 << l, Author: "a"}
			topics.Texts = append(topics.Texts, t)
			if i%4 == 0 {
				t.Text, t.Split, t.Author = strings.ReplaceAll(one(topic.heldOut), "*", one(topic.others)), Test, "b"
				topics.Texts = append(topics.Texts, t)
			}
		}
	}
	talk := &Corpus{Name: "talk", Licence: "none", SHA256: strings.Repeat("1", 64), Everyday: true}
	for i := range 8 * n {
		text := strings.ReplaceAll(one(toySmallTalk), "*", one(toyNames))
		if rng.IntN(3) == 0 {
			text += fmt.Sprint(" ", one(toyNames), " ", rng.IntN(30))
		}
		talk.Texts = append(talk.Texts, Text{Text: text, Split: splitOf(fmt.Sprint("talk-", i/10))})
	}
	return []*Corpus{topics, talk}
}

// toyConfig does not follow the defaults, so that the digest of the toy model
// does not.
func toyConfig() Config {
	return Config{Seed: 1, Bits: 14, Epochs: 12, LearningRate: 0.3, Decay: 1e-4, Least: 24, MinCount: 3, Mixed: 0.3}
}
