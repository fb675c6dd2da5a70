package catalogue

import "time"

// Kanister's functions, as its current release and the public ones before it
// declare them. They are known to the linter whether a worker runs them or not
// (Planned); a family that implements one replaces its entry here.

// How long one attempt may take. Kanister itself has no such limits, and waits
// for ever; a phase of a thaw.dev blueprint says its own.
const (
	shortCall = 10 * time.Minute
	dataCall  = 24 * time.Hour
)

// Kanister returns Kanister's functions.
func Kanister() []Function {
	var all []Function
	for _, l := range [][]Function{kanisterData(), kanisterRDS(), kanisterKopia()} {
		all = append(all, l...)
	}
	return all
}

func planned(family, name, summary string, args any, f Function) Function {
	f.Name, f.Family, f.Summary, f.Planned = name, family, summary, true
	f.Args = Args(args)
	if f.Timeout == 0 {
		f.Timeout = shortCall
	}
	return f
}

func outputs(pairs ...string) []Output {
	var out []Output
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, Output{Name: pairs[i], Description: pairs[i+1]})
	}
	return out
}

type podArgs struct {
	PodOverride    any               `arg:"podOverride" type:"object" doc:"Parts of the pod's spec, merged into it"`
	PodAnnotations map[string]string `arg:"podAnnotations" doc:"Annotations of the pod"`
	PodLabels      map[string]string `arg:"podLabels" doc:"Labels of the pod"`
}

// with returns the arguments of both structs.
func with(f Function, more any) Function {
	f.Args = append(f.Args, Args(more)...)
	return f
}

type resticArgs struct {
	EncryptionKey string `arg:"encryptionKey" doc:"Key of the repository; Kanister's built-in one where there is none"`
	InsecureTLS   bool   `arg:"insecureTLS" default:"false" doc:"Do not verify the store's certificate"`
}

func kanisterData() []Function {
	sizes := outputs("fileCount", "Number of files", "size", "Size of the data", "phySize", "Bytes added to the repository", "version", "Version of the output's schema")
	ids := outputs("backupID", "Id of the snapshot", "backupTag", "Tag of the snapshot")
	return []Function{
		with(planned("data", "BackupData", "Copies a path of a pod's container into the repository.", struct {
			Namespace string `arg:"namespace,required" doc:"Namespace of the pod"`
			Pod       string `arg:"pod,required" doc:"Name of the pod"`
			Container string `arg:"container,required" doc:"Container with the tools"`
			Include   string `arg:"includePath,required" doc:"Path to copy"`
			Prefix    string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
		}{}, Function{Cut: true, Outputs: append(ids, sizes...), Timeout: dataCall}), resticArgs{}),
		with(planned("data", "BackupDataAll", "Copies a path of several pods into the repository.", struct {
			Namespace string `arg:"namespace,required" doc:"Namespace of the pods"`
			Pods      string `arg:"pods" doc:"Names of the pods, separated by spaces; all of the workload where there is none"`
			Container string `arg:"container,required" doc:"Container with the tools"`
			Include   string `arg:"includePath,required" doc:"Path to copy"`
			Prefix    string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
		}{}, Function{Cut: true, Outputs: outputs("BackupAllInfo", "JSON: pod to snapshot", "version", "Version of the output's schema"), Timeout: dataCall}), resticArgs{}),
		with(planned("data", "BackupDataStats", "Tells the size of a snapshot in the repository.", struct {
			Namespace     string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
			Prefix        string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
			BackupID      string `arg:"backupID,required" doc:"Id of the snapshot"`
			Image         string `arg:"image" doc:"Image with the tools"`
			StatsMode     string `arg:"statsMode" alias:"mode" default:"restore-size" doc:"What to count, as restic's stats --mode"`
			EncryptionKey string `arg:"encryptionKey" doc:"Key of the repository"`
		}{}, Function{Idempotent: true, ReadOnly: true, Outputs: outputs("mode", "What was counted", "fileCount", "Number of files", "size", "Size", "version", "Version of the output's schema"), Timeout: time.Hour}), podArgs{}),
		with(with(planned("data", "CopyVolumeData", "Copies a volume into the repository, from a pod made for it.", struct {
			Namespace string `arg:"namespace,required" doc:"Namespace of the claim"`
			Volume    string `arg:"volume,required" doc:"Name of the claim"`
			Prefix    string `arg:"dataArtifactPrefix,required" doc:"Path of the repository in the location"`
			Image     string `arg:"image" doc:"Image with the tools"`
			MountPath string `arg:"mountPath" doc:"Where the volume is mounted"`
		}{}, Function{Cut: true, Outputs: append(append(outputs("backupRoot", "Path of the copied root", "backupArtifactLocation", "Path of the repository"), ids...), sizes...), Timeout: dataCall}), resticArgs{}), podArgs{}),
		with(with(planned("data", "RestoreData", "Writes a snapshot back into volumes, from a pod made for it. Give pod or volumes, and backupTag or backupIdentifier.", struct {
			Namespace        string            `arg:"namespace,required" doc:"Namespace of the claims"`
			Image            string            `arg:"image,required" doc:"Image with the tools"`
			Prefix           string            `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
			RestorePath      string            `arg:"restorePath" doc:"Where to write"`
			Pod              string            `arg:"pod" doc:"Pod whose volumes are mounted"`
			Volumes          map[string]string `arg:"volumes" doc:"Claim to mount path"`
			BackupTag        string            `arg:"backupTag" doc:"Tag of the snapshot"`
			BackupIdentifier string            `arg:"backupIdentifier" doc:"Id of the snapshot"`
			BackupPath       string            `arg:"backupPath" doc:"Path in the snapshot"`
		}{}, Function{Idempotent: true, Timeout: dataCall}), resticArgs{}), podArgs{}),
		with(with(planned("data", "RestoreDataAll", "Writes snapshots back into the volumes of several pods.", struct {
			Namespace   string `arg:"namespace,required" doc:"Namespace of the pods"`
			Image       string `arg:"image,required" doc:"Image with the tools"`
			Prefix      string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
			BackupInfo  string `arg:"backupInfo,required" doc:"BackupAllInfo of BackupDataAll"`
			RestorePath string `arg:"restorePath" doc:"Where to write"`
			Pods        string `arg:"pods" doc:"Names of the pods, separated by spaces"`
		}{}, Function{Idempotent: true, Timeout: dataCall}), resticArgs{}), podArgs{}),
		with(with(planned("data", "DeleteData", "Deletes a snapshot from the repository.", struct {
			Namespace    string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
			Prefix       string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
			Image        string `arg:"image" doc:"Image with the tools"`
			BackupID     string `arg:"backupID" doc:"Id of the snapshot"`
			BackupTag    string `arg:"backupTag" doc:"Tag of the snapshot"`
			ReclaimSpace bool   `arg:"reclaimSpace" default:"false" doc:"Prune the repository"`
		}{}, Function{Idempotent: true, Outputs: outputs("spaceFreed", "Bytes freed"), Timeout: dataCall}), resticArgs{}), podArgs{}),
		with(with(planned("data", "DeleteDataAll", "Deletes the snapshots of BackupDataAll from the repository.", struct {
			Namespace    string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
			Prefix       string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
			BackupInfo   string `arg:"backupInfo,required" doc:"BackupAllInfo of BackupDataAll"`
			Image        string `arg:"image" doc:"Image with the tools"`
			ReclaimSpace bool   `arg:"reclaimSpace" default:"false" doc:"Prune the repository"`
		}{}, Function{Idempotent: true, Outputs: outputs("spaceFreed", "Bytes freed"), Timeout: dataCall}), resticArgs{}), podArgs{}),
		with(with(planned("data", "CheckRepository", "Tells whether the repository is there and its key fits.", struct {
			Prefix string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
			Image  string `arg:"image" doc:"Image with the tools"`
		}{}, Function{Idempotent: true, ReadOnly: true, Outputs: outputs("passwordIncorrect", "true or false", "repoUnavailable", "true or false", "version", "Version of the output's schema")}), resticArgs{}), podArgs{}),
		planned("data", "LocationDelete", "Deletes what stands at a path of the location profile.", struct {
			Artifact string `arg:"artifact,required" doc:"Path in the location"`
		}{}, Function{Idempotent: true}),
	}
}
