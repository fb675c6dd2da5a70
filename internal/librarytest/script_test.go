package librarytest

import "os/exec"

func writeScriptRun(path string) string {
	out, err := exec.Command(path).CombinedOutput()
	if err != nil {
		return err.Error() + string(out)
	}
	return string(out)
}
