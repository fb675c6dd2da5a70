package catalogue

import "time"

// Kanister's functions, as its current release and the public ones before it
// declare them. They are known to the linter whether a worker runs them or not
// (Planned); a family that implements one replaces its entry here.

// How long one attempt may take. Kanister itself has no such limits, and waits
// for ever; a phase of a thaw.dev blueprint says its own.
const (
	shortCall = 10 * time.Minute
	podCall   = 12 * time.Hour
	dataCall  = 24 * time.Hour
)

// Kanister returns Kanister's functions.
func Kanister() []Function {
	var all []Function
	for _, l := range [][]Function{kanisterKube(), kanisterData(), kanisterVolumes(), kanisterRDS(), kanisterKopia()} {
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

func kanisterKube() []Function {
	objectOutputs := outputs(
		"apiVersion", "API version of the object", "group", "API group of the object", "resource", "Resource of the object",
		"kind", "Kind of the object", "name", "Name of the object", "namespace", "Namespace of the object")
	return []Function{
		planned("kube", "KubeExec", "Runs a command in a container of a running pod.", struct {
			Namespace string   `arg:"namespace,required" doc:"Namespace of the pod"`
			Pod       string   `arg:"pod,required" doc:"Name of the pod"`
			Container string   `arg:"container" doc:"Container of the pod; its first where there is none"`
			Command   []string `arg:"command,required" doc:"Command and arguments; what it prints with kando output is the phase's output"`
		}{}, Function{OpenOutputs: true, Timeout: podCall}),
		planned("kube", "KubeExecAll", "Runs a command in all given containers of all given pods at once.", struct {
			Namespace  string   `arg:"namespace,required" doc:"Namespace of the pods"`
			Pods       string   `arg:"pods,required" doc:"Names of the pods, separated by spaces"`
			Containers string   `arg:"containers,required" doc:"Names of the containers, separated by spaces"`
			Command    []string `arg:"command,required" doc:"Command and arguments"`
		}{}, Function{OpenOutputs: true, Timeout: podCall}),
		with(planned("kube", "KubeTask", "Runs a command in a pod made for it, and waits for its end.", struct {
			Namespace string   `arg:"namespace" doc:"Namespace of the pod; the worker's where there is none"`
			Image     string   `arg:"image,required" doc:"Image of the container"`
			Command   []string `arg:"command,required" doc:"Command and arguments; what it prints with kando output is the phase's output"`
		}{}, Function{OpenOutputs: true, Timeout: podCall}), podArgs{}),
		with(planned("kube", "MultiContainerRun", "Runs two commands, in containers that share a volume, in a pod made for it.", struct {
			Namespace             string   `arg:"namespace" doc:"Namespace of the pod; the worker's where there is none"`
			InitImage             string   `arg:"initImage" doc:"Image of the container that runs first"`
			InitCommand           []string `arg:"initCommand" doc:"Command of the container that runs first"`
			BackgroundImage       string   `arg:"backgroundImage,required" doc:"Image of the container in the background"`
			BackgroundCommand     []string `arg:"backgroundCommand,required" doc:"Command of the container in the background"`
			OutputImage           string   `arg:"outputImage,required" doc:"Image of the container whose kando output counts"`
			OutputCommand         []string `arg:"outputCommand,required" doc:"Command of the container whose kando output counts"`
			SharedVolumeMedium    string   `arg:"sharedVolumeMedium" doc:"Medium of the shared volume, such as Memory"`
			SharedVolumeSizeLimit string   `arg:"sharedVolumeSizeLimit" doc:"Size limit of the shared volume, such as 1Gi"`
			SharedVolumeDir       string   `arg:"sharedVolumeDir" default:"/tmp/" doc:"Where the shared volume is mounted"`
		}{}, Function{OpenOutputs: true, Timeout: podCall}), podArgs{}),
		with(planned("kube", "PrepareData", "Runs a command in a pod that mounts the target's volumes.", struct {
			Namespace      string            `arg:"namespace,required" doc:"Namespace of the pod"`
			Image          string            `arg:"image,required" doc:"Image of the container"`
			Volumes        map[string]string `arg:"volumes" doc:"Claim to mount path; all claims of the workload, below /mnt/prepare_data, where there is none"`
			Command        []string          `arg:"command,required" doc:"Command and arguments"`
			ServiceAccount string            `arg:"serviceaccount" doc:"Service account of the pod"`
			FailOnError    bool              `arg:"failOnError" default:"false" doc:"Fail the phase where the command fails"`
		}{}, Function{OpenOutputs: true, Timeout: podCall}), podArgs{}),
		planned("kube", "ScaleWorkload", "Scales a workload, and waits until its pods are there or gone.", struct {
			Namespace    string `arg:"namespace" doc:"Namespace of the workload; the target's where there is none"`
			Name         string `arg:"name" doc:"Name of the workload; the target's where there is none"`
			Kind         string `arg:"kind" enum:"deployment|statefulset|deploymentconfig" doc:"Kind of the workload; the target's where there is none"`
			Replicas     int    `arg:"replicas,required" doc:"Number of replicas"`
			WaitForReady bool   `arg:"waitForReady" default:"true" doc:"Wait until the workload is ready"`
		}{}, Function{Idempotent: true, Outputs: outputs("originalReplicaCount", "Number of replicas before"), Timeout: 30 * time.Minute}),
		planned("kube", "KubeOps", "Creates, patches or deletes an object.", struct {
			Operation       string `arg:"operation,required" enum:"create|patch|delete" doc:"What to do"`
			Namespace       string `arg:"namespace" default:"default" doc:"Namespace of the object"`
			Spec            string `arg:"spec" doc:"The object, or the patch, as YAML text"`
			ObjectReference any    `arg:"objectReference" type:"object" doc:"The object to patch or delete: apiVersion, group, resource, name, namespace"`
		}{}, Function{Outputs: objectOutputs}),
		planned("kube", "Wait", "Waits until objects meet conditions (JSONPath in a template). Use WaitV2.", struct {
			Timeout    time.Duration `arg:"timeout,required" doc:"How long to wait"`
			Conditions any           `arg:"conditions,required" type:"object" doc:"anyOf and allOf: lists of {condition, objectReference}"`
		}{}, Function{Idempotent: true, ReadOnly: true, Timeout: podCall}),
		planned("kube", "WaitV2", "Waits until objects meet conditions (a template over the object).", struct {
			Timeout    time.Duration `arg:"timeout,required,raw" doc:"How long to wait"`
			Conditions any           `arg:"conditions,required,raw" type:"object" doc:"anyOf and allOf: lists of {condition, objectReference}; the condition is a template over the object"`
		}{}, Function{Idempotent: true, ReadOnly: true, Timeout: podCall}),
	}
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
