package databench

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/activities/mover"
	"thaw/blueprints/templates"
	"thaw/internal/teststore"
)

const passphrase = "a passphrase of the benchmark"

// tool is a program under the benchmark, with a store of its own.
type tool struct {
	name string
	init func(b *testing.B, c *counter, dir string)
	// save backs a directory up; restore brings the newest back to an empty
	// one.
	save    func(dir, tag string) program
	restore func(dir, to string) program
}

// bin is a program of this repository, or of the system.
func bin(b *testing.B, name string) string {
	_, file, _, _ := runtime.Caller(0)
	p := filepath.Join(filepath.Dir(file), "..", "..", "bin", name)
	if _, err := os.Stat(p); err == nil {
		return p
	}
	p, err := exec.LookPath(name)
	if err != nil {
		b.Skipf("%s is not there: run `make bench-data`, or install it", name)
	}
	return p
}

func profile(c *counter) templates.Profile {
	return templates.Profile{
		Location:   templates.Location{Type: "s3Compliant", Bucket: teststore.Bucket, Endpoint: "http://" + c.addr(), Region: "us-east-1"},
		Credential: templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: teststore.Key, Secret: teststore.Secret}},
	}
}

// tools, each made for a store behind c and a directory for its own files.
var tools = []struct {
	name string
	make func(b *testing.B, c *counter, scratch string) tool
}{{"thaw", thaw}, {"restic", restic}, {"kopia", kopia}, {"plain", plain}}

// thaw is the mover as it runs in a container: `kando data`, with its request
// on its standard input.
func thaw(b *testing.B, c *counter, _ string) tool {
	ask := func(q mover.Request) program {
		q.Profile, q.Repository, q.Passphrase = profile(c), "thaw", passphrase
		text, err := json.Marshal(q)
		require.NoError(b, err)
		return program{args: []string{bin(b, "kando"), "data", "-"}, stdin: text}
	}
	return tool{
		name: "thaw",
		init: func(*testing.B, *counter, string) {},
		save: func(dir, tag string) program {
			return ask(mover.Request{Do: mover.Save, Path: dir, Source: "/db", Tag: tag})
		},
		restore: func(dir, to string) program {
			return ask(mover.Request{Do: mover.Restore, Tag: "last", Target: to, Below: dir})
		},
	}
}

// restic with its defaults, and the cache that it makes.
func restic(b *testing.B, c *counter, scratch string) tool {
	env := []string{
		"AWS_ACCESS_KEY_ID=" + teststore.Key, "AWS_SECRET_ACCESS_KEY=" + teststore.Secret, "AWS_DEFAULT_REGION=us-east-1",
		"RESTIC_PASSWORD=" + passphrase, "RESTIC_REPOSITORY=s3:http://" + c.addr() + "/" + teststore.Bucket + "/restic", "RESTIC_CACHE_DIR=" + filepath.Join(scratch, "restic"),
	}
	call := func(args ...string) program {
		return program{args: append([]string{bin(b, "restic")}, args...), env: env}
	}
	return tool{
		name: "restic",
		init: func(b *testing.B, c *counter, _ string) { c.run(b, call("init")) },
		save: func(dir, _ string) program { return call("backup", dir) },
		restore: func(_, to string) program {
			return call("restore", "latest", "--target", to)
		},
	}
}

// kopia with its defaults, but for the compression, which is none by default.
func kopia(b *testing.B, c *counter, scratch string) tool {
	env := []string{"KOPIA_PASSWORD=" + passphrase, "KOPIA_CHECK_FOR_UPDATES=false", "KOPIA_LOG_DIR=" + filepath.Join(scratch, "kopia-log"), "HOME=" + scratch}
	call := func(args ...string) program {
		args = append([]string{bin(b, "kopia"), "--config-file=" + filepath.Join(scratch, "kopia.config"), "--no-progress"}, args...)
		return program{args: args, env: env}
	}
	return tool{
		name: "kopia",
		init: func(b *testing.B, c *counter, _ string) {
			c.run(b, call("repository", "create", "s3", "--bucket="+teststore.Bucket, "--endpoint="+c.addr(), "--disable-tls", "--region=us-east-1",
				"--prefix=kopia/", "--access-key="+teststore.Key, "--secret-access-key="+teststore.Secret, "--cache-directory="+filepath.Join(scratch, "kopia-cache")))
			c.run(b, call("policy", "set", "--global", "--compression=zstd-fastest"))
		},
		save:    func(dir, _ string) program { return call("snapshot", "create", dir) },
		restore: func(dir, to string) program { return call("snapshot", "restore", dir, to) },
	}
}

// plain is a pipe: nothing is encrypted, and all is moved each time.
func plain(b *testing.B, c *counter, _ string) tool {
	text, err := json.Marshal(profile(c))
	require.NoError(b, err)
	env := []string{"PROFILE=" + string(text), "KANDO=" + bin(b, "kando")}
	pipe := func(text, dir string) program {
		return program{args: []string{"bash", "-c", "set -o pipefail; " + text}, env: append(env, "DIR="+dir)}
	}
	return tool{
		name: "plain",
		init: func(*testing.B, *counter, string) {},
		save: func(dir, tag string) program {
			return pipe(`tar -C "$DIR" -cf - . | zstd -1 -T2 -q | "$KANDO" location push --profile "$PROFILE" --path plain/last.tar.zst -`, dir)
		},
		restore: func(_, to string) program {
			return pipe(`mkdir -p "$DIR" && "$KANDO" location pull --profile "$PROFILE" --path plain/last.tar.zst - | zstd -d -q | tar -C "$DIR" -xf -`, to)
		},
	}
}
