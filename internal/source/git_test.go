package source

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// git runs git in dir and returns what it prints.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@localhost"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// repository makes a repository with one commit of realms/main.yaml and returns the commit.
func repository(t *testing.T, dir string) string {
	t.Helper()
	write(t, dir+"/realms/main.yaml", "main")
	git(t, dir, "init", "-q", "-b", "trunk")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "one")
	return git(t, dir, "rev-parse", "HEAD")
}

func TestRevisionIsTheCommitOfWhatWasRead(t *testing.T) {
	read := func(root string) string { return testReader(root).Read(t.Context()).Revision }
	check := func(t *testing.T, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("revision %q, want %q", got, want)
		}
	}
	t.Run("a branch, loose and packed, above the root", func(t *testing.T) {
		dir := t.TempDir()
		commit := repository(t, dir)
		check(t, read(dir), commit)
		check(t, read(dir+"/realms"), commit)
		git(t, dir, "pack-refs", "--all")
		check(t, read(dir+"/realms"), commit)
	})
	t.Run("a detached HEAD", func(t *testing.T) {
		dir := t.TempDir()
		commit := repository(t, dir)
		git(t, dir, "checkout", "-q", "--detach")
		check(t, read(dir), commit)
	})
	t.Run("a worktree, detached and on a branch of its own", func(t *testing.T) {
		dir := t.TempDir()
		repository(t, dir+"/repo")
		git(t, dir+"/repo", "commit", "-q", "--allow-empty", "-m", "two")
		git(t, dir+"/repo", "worktree", "add", "-q", "-b", "side", dir+"/side", "HEAD~1")
		git(t, dir+"/repo", "worktree", "add", "-q", "--detach", dir+"/detached", "HEAD~1")
		one := git(t, dir+"/repo", "rev-parse", "HEAD~1")
		check(t, read(dir+"/side/realms"), one)
		check(t, read(dir+"/detached/realms"), one)
		symlink(t, "side", dir+"/current")
		check(t, read(dir+"/current/realms"), one)
	})
	t.Run("git-sync, by git and by the name alone", func(t *testing.T) {
		dir := t.TempDir()
		commit := repository(t, dir)
		git(t, dir, "worktree", "add", "-q", "--detach", ".worktrees/"+commit, "HEAD")
		git(t, dir, "commit", "-q", "--allow-empty", "-m", "two")
		symlink(t, ".worktrees/"+commit, dir+"/current")
		check(t, read(dir), commit)
		check(t, read(dir+"/current/realms"), commit)
		must(t, os.RemoveAll(dir+"/.git"))
		check(t, read(dir), commit)
		check(t, read(dir+"/current/realms"), commit)
	})
	t.Run("no git, or a broken one", func(t *testing.T) {
		dir := t.TempDir()
		check(t, read(dir), "")
		for _, head := range []string{"", "ref: ../../../etc/passwd", "ref: refs/../../x", "ref: refs/heads/none", strings.Repeat("a", 41)} {
			write(t, dir+"/.git/HEAD", head)
			check(t, read(dir), "")
		}
		must(t, os.Remove(dir+"/.git/HEAD"))
		must(t, unix.Mkfifo(dir+"/.git/HEAD", 0o644))
		check(t, read(dir), "")
		must(t, os.RemoveAll(dir+"/.git"))
		write(t, dir+"/.git", "gitdir: /nonexistent")
		check(t, read(dir), "")
	})
}
