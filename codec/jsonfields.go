package codec

import (
	"cmp"
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"
)

// A field is a member that a struct has by encoding/json's rules.
type field struct {
	name                        string
	index                       []int
	named                       bool // by its tag
	omitEmpty, omitZero, quoted bool
}

var fieldCache sync.Map // reflect.Type -> []field

// fieldsOf returns the fields of a struct in the order of their declaration,
// embedded ones in their place. Of equal names the least deep counts, of those
// the one named by a tag; when there is still more than one, none.
func fieldsOf(t reflect.Type) []field {
	if f, ok := fieldCache.Load(t); ok {
		return f.([]field)
	}
	all := visibleFields(t)
	slices.SortStableFunc(all, func(a, b field) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(len(a.index), len(b.index)), cmp.Compare(btoi(b.named), btoi(a.named)))
	})
	fields := []field{}
	for i := 0; i < len(all); {
		same := i + 1
		for same < len(all) && all[same].name == all[i].name {
			same++
		}
		if same == i+1 || len(all[i].index) < len(all[i+1].index) || all[i].named && !all[i+1].named {
			fields = append(fields, all[i])
		}
		i = same
	}
	slices.SortFunc(fields, func(a, b field) int { return slices.Compare(a.index, b.index) })
	got, _ := fieldCache.LoadOrStore(t, fields)
	return got.([]field)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// visibleFields goes through t level by level, embedded structs being the next
// level. A struct that was met above brings nothing new.
func visibleFields(t reflect.Type) []field {
	type part struct {
		of    reflect.Type
		index []int
	}
	var all []field
	met := map[reflect.Type]bool{}
	for level := []part{{of: t}}; len(level) > 0; {
		var below []part
		for _, p := range level {
			met[p.of] = true
		}
		for _, p := range level {
			for i := range p.of.NumField() {
				f, inner, ok := fieldOf(p.of.Field(i))
				f.index = append(slices.Clone(p.index), i)
				if ok && inner == nil {
					all = append(all, f)
				} else if ok && !met[inner] {
					below = append(below, part{inner, f.index})
				}
			}
		}
		level = below
	}
	return all
}

// fieldOf returns what sf is: a field, or an embedded struct with fields of
// its own; false when it is neither.
func fieldOf(sf reflect.StructField) (f field, inner reflect.Type, ok bool) {
	t := sf.Type
	if t.Kind() == reflect.Pointer && (sf.Anonymous || t.Name() == "") {
		t = t.Elem()
	}
	tag := sf.Tag.Get("json")
	if tag == "-" || !sf.IsExported() && (!sf.Anonymous || t.Kind() != reflect.Struct) {
		return f, nil, false
	}
	name, options, _ := strings.Cut(tag, ",")
	if strings.ContainsFunc(name, notInName) {
		name = ""
	}
	if sf.Anonymous && name == "" && t.Kind() == reflect.Struct {
		return f, t, true
	}
	f = field{name: cmp.Or(name, sf.Name), named: name != ""}
	for o := range strings.SplitSeq(options, ",") {
		f.omitEmpty = f.omitEmpty || o == "omitempty"
		f.omitZero = f.omitZero || o == "omitzero"
		f.quoted = f.quoted || o == "string" && quotable(t.Kind())
	}
	return f, nil, true
}

func notInName(c rune) bool {
	return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", c)
}

// quotable says whether ",string" means something.
func quotable(k reflect.Kind) bool {
	return k == reflect.Bool || k >= reflect.Int && k <= reflect.Float64 || k == reflect.String
}
