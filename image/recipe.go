package image

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/mattn/go-shellwords"
)

// Recipe is a list of instructions that make an image, one a line:
//
//	base web:1.3 | https://host/web:1.3 | ./base.txz | ./rootfs   what it stands on; first, or not at all
//	copy SOURCE... TARGET     files and folders below the recipe's folder; the image's root gets them. Of several sources, and with
//	                          a slash at its end, the target is a folder
//	run COMMAND LINE          in a jail of the image so far, by its /bin/sh
//	user NAME, workdir PATH, env NAME=VALUE..., ports 80 53/udp, cmd WORDS | ["JSON", "LIST"]
//
// A backslash ends a line that goes on, # begins a comment's line.
type Recipe struct {
	dir          string
	instructions []instruction
}

type instruction struct {
	line int
	word string
	text string   // all behind the word
	args []string // of all but run
}

// arguments says how many an instruction takes.
var arguments = map[string]struct{ least, most int }{
	"base": {1, 1}, "copy": {2, 1 << 10}, "run": {1, 1 << 10}, "user": {1, 1}, "workdir": {1, 1}, "env": {1, 1 << 10},
	"ports": {1, 1 << 10}, "cmd": {1, 1 << 10},
}

// ParseRecipe reads a recipe whose files are below dir.
func ParseRecipe(r io.Reader, dir string) (Recipe, error) {
	recipe := Recipe{dir: dir}
	scanner := bufio.NewScanner(r)
	text, begin := "", 0
	for n := 1; scanner.Scan(); n++ {
		if text == "" {
			begin = n
		}
		line := strings.TrimSpace(scanner.Text())
		if strings.HasPrefix(line, "#") || line == "" && text == "" {
			continue
		}
		if part, more := strings.CutSuffix(line, `\`); more {
			text += part + " "
			continue
		}
		i, err := parseInstruction(text + line)
		if i.line, text = begin, ""; err != nil {
			return Recipe{}, fmt.Errorf("line %d of the recipe: %w", begin, err)
		}
		if i.word == "base" && len(recipe.instructions) > 0 {
			return Recipe{}, fmt.Errorf("line %d of the recipe: base comes first or not at all", begin)
		}
		recipe.instructions = append(recipe.instructions, i)
	}
	if text != "" {
		return Recipe{}, fmt.Errorf("line %d of the recipe goes on behind its end", begin)
	}
	return recipe, scanner.Err()
}

func parseInstruction(line string) (instruction, error) {
	word, text := line, ""
	if end := strings.IndexAny(line, " \t"); end >= 0 {
		word, text = line[:end], line[end:]
	}
	i := instruction{word: word, text: strings.TrimSpace(text)}
	takes, ok := arguments[word]
	if !ok {
		return i, fmt.Errorf("unknown instruction %q; there are %s", clip(word), strings.Join(slices.Sorted(maps.Keys(arguments)), ", "))
	}
	var err error
	i.args, err = Words(i.text)
	if word == "run" { // its shell reads it
		i.args, err = []string{i.text}, nil
	}
	switch {
	case err != nil:
		return i, err
	case i.text == "" || len(i.args) < takes.least:
		return i, fmt.Errorf("%s takes at least %d arguments", word, takes.least)
	case len(i.args) > takes.most:
		return i, fmt.Errorf("%s takes at most %d arguments", word, takes.most)
	}
	return i, nil
}

// Words splits a command line: a JSON list of strings, or words that may be quoted as in sh(1).
func Words(s string) ([]string, error) {
	if strings.HasPrefix(strings.TrimSpace(s), "[") {
		var list []string
		if err := json.Unmarshal([]byte(s), &list); err != nil {
			return nil, fmt.Errorf("%s is no JSON list of strings: %w", clip(s), err)
		}
		return list, nil
	}
	parser := shellwords.NewParser()
	list, err := parser.Parse(s)
	if err != nil || parser.Position != -1 {
		return nil, fmt.Errorf(`%s cannot be split into words; quote it, or write ["/bin/sh", "-c", "…"]`, clip(s))
	}
	return list, nil
}

// apply notes an instruction that changes no files.
func (d *Defaults) apply(i instruction) error {
	switch i.word {
	case "user":
		d.User = i.args[0]
	case "workdir":
		d.Workdir = i.args[0]
	case "ports":
		d.Ports = append(d.Ports, i.args...)
	case "cmd":
		d.Command, d.Args = i.args[0], i.args[1:]
	case "env":
		d.Env = maps.Clone(d.Env)
		if d.Env == nil {
			d.Env = map[string]string{}
		}
		for _, pair := range i.args {
			name, value, ok := strings.Cut(pair, "=")
			if !ok {
				return fmt.Errorf("env %q has no =; write NAME=VALUE", clip(pair))
			}
			d.Env[name] = value
		}
	}
	return d.validate()
}
