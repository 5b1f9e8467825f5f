package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

const plain = `{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:777b2c648970480f50f5b4d0af8f9a8ea798eea43dbcf40ce4a8c7118736bdcf"]},"history":[{"created":"2020-12-17T00:19:41Z","created_by":"/bin/sh -c #(nop) ADD file:ec475c2abb2d46435 in / "}]}`

type resolver struct{ config []byte }

func (r *resolver) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, "", r.config, nil
}

type req struct {
	Dockerfile string            `json:"dockerfile"`
	BuildArgs  map[string]string `json:"build_args"`
	Target     string            `json:"target"`
	Platform   string            `json:"platform"`
	BaseConfig json.RawMessage   `json:"base_config"`
	// lint, outline or targets instead of the record
	Query string `json:"query"`
}

type M = map[string]any

func put(m M, k string, v string) {
	if v != "" {
		m[k] = v
	}
}

type compiled struct {
	ast      *parser.Result
	stages   []instructions.Stage
	res      *dockerfile2llb.Result
	def      *llb.Definition
	warnings []any
}

func options(r *req) (dockerfile2llb.ConvertOpt, error) {
	cfg := []byte(plain)
	if len(r.BaseConfig) > 0 {
		cfg = r.BaseConfig
	}
	bp := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	tp := bp
	opt := dockerfile2llb.ConvertOpt{}
	opt.BuildArgs = map[string]string{}
	for k, v := range r.BuildArgs {
		opt.BuildArgs[k] = v
	}
	opt.Target = r.Target
	opt.BuildPlatforms = []ocispecs.Platform{bp}
	if r.Platform != "" {
		p, err := platforms.Parse(r.Platform)
		if err != nil {
			return opt, err
		}
		tp = platforms.Normalize(p)
	}
	opt.TargetPlatform = &tp
	opt.MetaResolver = &resolver{cfg}
	caps := pb.Caps.CapSet(pb.Caps.All())
	opt.LLBCaps = &caps
	return opt, nil
}

func compile(r *req, warn bool) (*compiled, error) {
	ctx := context.Background()
	c := &compiled{}
	opt, err := options(r)
	if err != nil {
		return nil, err
	}
	opt.Warn = func(rule, description, url, msg string, location []parser.Range) {
		line := 0
		if len(location) > 0 {
			line = location[0].Start.Line
		}
		c.warnings = append(c.warnings, M{"rule": rule, "msg": msg, "line": line})
	}
	dt := []byte(r.Dockerfile)
	res, err := dockerfile2llb.Dockerfile2LLB(ctx, dt, opt)
	if err != nil {
		return nil, err
	}
	c.res = res
	def, err := res.State.Marshal(ctx, llb.Platform(*opt.TargetPlatform))
	if err != nil {
		return nil, err
	}
	c.def = def
	return c, nil
}

// query answers what the frontend's subrequests of that name answer, in their own form.
func query(r *req) any {
	ctx := context.Background()
	dt := []byte(r.Dockerfile)
	opt, err := options(r)
	if err != nil {
		return M{"error": err.Error()}
	}
	var out any
	switch r.Query {
	case "lint":
		opt.SourceMap = llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", dt)
		out, err = dockerfile2llb.DockerfileLint(ctx, dt, opt)
	case "outline":
		out, err = dockerfile2llb.Dockerfile2Outline(ctx, dt, opt)
	case "targets":
		out, err = dockerfile2llb.ListTargets(ctx, dt)
	default:
		return record(r)
	}
	if err != nil {
		return M{"error": err.Error()}
	}
	return out
}

func record(r *req) M {
	out := M{}
	c, err := compile(r, true)
	if err != nil {
		out["error"] = err.Error()
		return out
	}
	ast, err := parser.Parse(bytes.NewReader([]byte(r.Dockerfile)))
	if err != nil {
		out["error"] = err.Error()
		return out
	}
	stages, _, err := instructions.Parse(ast.AST, linter.New(&linter.Config{}))
	if err != nil {
		out["error"] = err.Error()
		return out
	}
	var st, ins []any
	for i, s := range stages {
		m := M{"name": s.Name, "base": s.BaseName}
		put(m, "platform", s.Platform)
		st = append(st, m)
		for _, cmd := range s.Commands {
			line := 0
			if l := cmd.Location(); len(l) > 0 {
				line = l[0].Start.Line
			}
			ins = append(ins, M{"stage": i, "name": strings.ToUpper(cmd.Name()), "line": line})
		}
	}
	list(out, "stages", st)
	list(out, "instructions", ins)
	cj, _ := json.Marshal(c.res.Image.Config)
	var cm M
	json.Unmarshal(cj, &cm)
	for k, v := range cm {
		if empty(v) {
			delete(cm, k)
		}
	}
	if len(cm) > 0 {
		out["config"] = cm
	}
	var hist []any
	for _, h := range c.res.Image.History {
		m := M{}
		put(m, "created_by", h.CreatedBy)
		put(m, "author", h.Author)
		if h.EmptyLayer {
			m["empty_layer"] = true
		}
		hist = append(hist, m)
	}
	list(out, "history", hist)
	var sources, execs, files []any
	for _, dt := range c.def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			panic(err)
		}
		switch o := op.Op.(type) {
		case *pb.Op_Source:
			id := o.Source.Identifier
			if strings.HasPrefix(id, "docker-image://") {
				id, _, _ = strings.Cut(id, "@")
			}
			sources = append(sources, id)
		case *pb.Op_Exec:
			m := M{}
			meta := o.Exec.Meta
			args := []any{}
			for _, a := range meta.Args {
				args = append(args, a)
			}
			m["args"] = args
			m["cwd"] = meta.Cwd
			env := append([]string{}, meta.Env...)
			sort.Strings(env)
			m["env"] = env
			put(m, "user", meta.User)
			switch o.Exec.Network {
			case pb.NetMode_NONE:
				m["network"] = "none"
			case pb.NetMode_HOST:
				m["network"] = "host"
			}
			if o.Exec.Security == pb.SecurityMode_INSECURE {
				m["security"] = "insecure"
			}
			var mounts []M
			for _, mt := range o.Exec.Mounts {
				if mt.Dest == "/" {
					continue
				}
				x := M{"type": strings.ToLower(mt.MountType.String())}
				put(x, "dest", mt.Dest)
				put(x, "source", mt.Selector)
				if mt.Readonly {
					x["readonly"] = true
				}
				if mt.CacheOpt != nil {
					put(x, "id", mt.CacheOpt.ID)
					put(x, "sharing", strings.ToLower(mt.CacheOpt.Sharing.String()))
				}
				if mt.TmpfsOpt != nil && mt.TmpfsOpt.Size != 0 {
					x["size"] = mt.TmpfsOpt.Size
				}
				if mt.SecretOpt != nil {
					put(x, "id", mt.SecretOpt.ID)
					if mt.SecretOpt.Optional {
						x["optional"] = true
					}
				}
				if mt.SSHOpt != nil {
					put(x, "id", mt.SSHOpt.ID)
					if mt.SSHOpt.Optional {
						x["optional"] = true
					}
				}
				mounts = append(mounts, x)
			}
			sort.SliceStable(mounts, func(i, j int) bool {
				a, _ := mounts[i]["dest"].(string)
				b, _ := mounts[j]["dest"].(string)
				return a < b
			})
			var ml []any
			for _, x := range mounts {
				ml = append(ml, x)
			}
			list(m, "mounts", ml)
			execs = append(execs, m)
		case *pb.Op_File:
			for _, a := range o.File.Actions {
				m := M{}
				switch x := a.Action.(type) {
				case *pb.FileAction_Copy:
					y := x.Copy
					m["op"] = "copy"
					put(m, "src", y.Src)
					put(m, "dest", y.Dest)
					if y.Owner != nil {
						put(m, "user", user(y.Owner.User))
						put(m, "group", user(y.Owner.Group))
					}
					if y.ModeStr != "" {
						m["mode"] = y.ModeStr
					} else if y.Mode != -1 {
						m["mode"] = fmt.Sprintf("%04o", y.Mode)
					}
					var inc, exc []any
					for _, v := range y.IncludePatterns {
						inc = append(inc, v)
					}
					for _, v := range y.ExcludePatterns {
						exc = append(exc, v)
					}
					list(m, "include", inc)
					list(m, "exclude", exc)
					if y.AttemptUnpackDockerCompatibility {
						m["unpack"] = true
					}
				case *pb.FileAction_Mkdir:
					m["op"] = "mkdir"
					put(m, "dest", x.Mkdir.Path)
					m["mode"] = fmt.Sprintf("%04o", x.Mkdir.Mode)
				case *pb.FileAction_Mkfile:
					m["op"] = "mkfile"
					put(m, "dest", x.Mkfile.Path)
					put(m, "data", string(x.Mkfile.Data))
				case *pb.FileAction_Rm:
					m["op"] = "rm"
					put(m, "dest", x.Rm.Path)
				}
				files = append(files, m)
			}
		}
	}
	list(out, "sources", set(sources, false))
	list(out, "execs", set(execs, false))
	list(out, "files", set(files, false))
	list(out, "warnings", set(c.warnings, false))
	return out
}

func user(u *pb.UserOpt) string {
	if u == nil {
		return ""
	}
	switch x := u.User.(type) {
	case *pb.UserOpt_ByName:
		return x.ByName.Name
	case *pb.UserOpt_ByID:
		return fmt.Sprint(x.ByID)
	}
	return ""
}

func set(v []any, dedup bool) []any {
	type kv struct {
		k string
		v any
	}
	var t []kv
	for _, x := range v {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.Encode(x)
		t = append(t, kv{b.String(), x})
	}
	sort.SliceStable(t, func(i, j int) bool { return t[i].k < t[j].k })
	var out []any
	for i, x := range t {
		if dedup && i > 0 && t[i-1].k == x.k {
			continue
		}
		out = append(out, x.v)
	}
	return out
}

func list(m M, k string, v []any) {
	if len(v) > 0 {
		m[k] = v
	}
}

func empty(v any) bool {
	switch x := v.(type) {
	case nil:
		return true
	case bool:
		return !x
	case string:
		return x == ""
	case []any:
		return len(x) == 0
	case map[string]any:
		return len(x) == 0
	}
	return false
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "bench" {
		// bench ROOT NAMES-FILE ROUNDS: each line "plan_ms json_ms"
		names, _ := os.ReadFile(os.Args[3])
		var reqs []*req
		n := 0
		for _, name := range strings.Fields(string(names)) {
			dt, err := os.ReadFile(os.Args[2] + "/" + name)
			if err != nil {
				panic(err)
			}
			n += len(dt)
			reqs = append(reqs, &req{Dockerfile: string(dt)})
		}
		rounds := 1
		fmt.Sscan(os.Args[4], &rounds)
		for i := 0; i < rounds; i++ {
			t := cpu()
			ok := 0
			for _, r := range reqs {
				if _, err := compile(r, true); err == nil {
					ok++
				}
			}
			a := cpu() - t
			t = cpu()
			out := 0
			for _, r := range reqs {
				b, _ := json.Marshal(record(r))
				out += len(b)
			}
			fmt.Printf("%.3f %.3f %d %d %d %d\n", a.Seconds()*1e3, (cpu()-t).Seconds()*1e3, len(reqs), n, ok, out)
		}
		return
	}
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	w := bufio.NewWriter(os.Stdout)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 1 {
			var r req
			if err := json.Unmarshal(line, &r); err != nil {
				panic(err)
			}
			var b []byte
			func() {
				defer func() {
					if p := recover(); p != nil {
						b, _ = json.Marshal(M{"error": fmt.Sprint("panic: ", p)})
					}
				}()
				b, _ = json.Marshal(query(&r))
			}()
			w.Write(b)
			w.WriteByte('\n')
			w.Flush()
		}
		if err != nil {
			return
		}
	}
}
