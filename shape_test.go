package gombu_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write api/*.txt")

// The root module, its tests included, is built from the standard library alone.
func TestRootImportsOnlyTheStandardLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-test", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for _, p := range strings.Fields(string(out)) {
		if p != "github.com/gombu/gombu" && !strings.HasPrefix(p, "github.com/gombu/gombu/") && !strings.HasPrefix(p, "[") && !strings.HasPrefix(p, "github.com/gombu/gombu.") && !strings.HasPrefix(p, "github.com/gombu/gombu_") {
			t.Errorf("the root module depends on %s", p)
		}
	}
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mod, []byte("require")) {
		t.Error("go.mod of the root has a require")
	}
}

// A transport is built on the seams; the root is for users.
func TestTransportsDoNotImportTheRoot(t *testing.T) {
	for _, dir := range []string{"driver", "virtual", "wire", "codec", "internal", "transport"} {
		err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, i := range f.Imports {
				if i.Path.Value == `"github.com/gombu/gombu"` && !strings.HasSuffix(path, "_test.go") {
					t.Errorf("%s imports the root package", path)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The exported API is what api/*.txt says; a change of it is made on purpose,
// with go test -run TestExportedAPI -update.
func TestExportedAPI(t *testing.T) {
	for _, dir := range []string{".", "driver", "driver/dsn", "virtual", "codec"} {
		lines, names := exported(t, dir)
		if dir == "." && len(names) > maxRootNames {
			t.Errorf("the root exports %d names, at most %d are allowed: %v", len(names), maxRootNames, names)
		}
		file := filepath.Join("api", strings.ReplaceAll(strings.Replace(dir, ".", "gombu", 1), "/", "-")+".txt")
		got := strings.Join(lines, "\n") + "\n"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the exported API of %s is not what %s says (-update writes it):\n%s", dir, file, difference(string(want), got))
		}
	}
}

const maxRootNames = 60

// exported lists the exported declarations of a package, a line each, and the
// package-level names.
func exported(t *testing.T, dir string) (lines, names []string) {
	t.Helper()
	fset := token.NewFileSet()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".go") && !strings.HasSuffix(e.Name(), "_test.go") {
			f, err := parser.ParseFile(fset, filepath.Join(dir, e.Name()), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
	}
	p, err := doc.NewFromFiles(fset, files, "x")
	if err != nil {
		t.Fatal(err)
	}
	add := func(n ast.Node) {
		var b bytes.Buffer
		if err := printer.Fprint(&b, fset, n); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.Join(strings.Fields(b.String()), " "))
	}
	values := func(vs []*doc.Value) {
		for _, v := range vs {
			for _, n := range v.Names {
				if ast.IsExported(n) {
					names = append(names, n)
					lines = append(lines, fmt.Sprintf("%s %s", v.Decl.Tok, n))
				}
			}
		}
	}
	funcs := func(fs []*doc.Func, top bool) {
		for _, f := range fs {
			f.Decl.Body = nil
			add(f.Decl)
			if top {
				names = append(names, f.Name)
			}
		}
	}
	values(p.Consts)
	values(p.Vars)
	funcs(p.Funcs, true)
	for _, typ := range p.Types {
		names = append(names, typ.Name)
		add(typ.Decl)
		values(typ.Consts)
		values(typ.Vars)
		funcs(typ.Funcs, true)
		funcs(typ.Methods, false)
	}
	slices.Sort(lines)
	slices.Sort(names)
	return lines, names
}

func difference(want, got string) string {
	var b strings.Builder
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for _, l := range w {
		if !slices.Contains(g, l) {
			fmt.Fprintln(&b, "-", l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			fmt.Fprintln(&b, "+", l)
		}
	}
	return b.String()
}

// Every exported name has a comment, no file is longer than 500 lines, and no
// function longer than 70.
func TestFilesAndFunctionsStayShort(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() && strings.HasPrefix(e.Name(), ".") && path != "." {
			if e != nil && e.IsDir() {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		if n := fset.Position(f.End()).Line; n > 500 {
			t.Errorf("%s has %d lines", path, n)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1; n > 70 && !strings.Contains(path, "drivertest") {
				t.Errorf("%s: %s has %d lines", path, fn.Name.Name, n)
			}
			if fn.Name.IsExported() && fn.Doc == nil && fn.Recv == nil {
				t.Errorf("%s: %s has no comment", path, fn.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
